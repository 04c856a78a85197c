# The server, on a CPU:
#   docker build -t prmagic .
#   docker run --rm -p 8000:8000 -e PRMAGIC_TOKEN=16-letters-or-more -v references:/data prmagic
# With CUDA: docker build --build-arg TORCH=cu126 -t prmagic:cuda .   and   docker run --gpus all …
FROM python:3.12-slim

# Which build of PyTorch: cpu, or a version of CUDA as on https://pytorch.org
ARG TORCH=cpu

RUN useradd --create-home --uid 1000 prmagic \
    && install --directory --owner prmagic --group prmagic /data
WORKDIR /prmagic
COPY pyproject.toml README.md LICENSE NOTICE constraints.txt ./
COPY src ./src
RUN pip install --no-cache-dir --extra-index-url "https://download.pytorch.org/whl/${TORCH}" \
    --constraint constraints.txt ".[app,serve]"

USER 1000
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
ENTRYPOINT ["prmagic"]
CMD ["serve", "--host", "0.0.0.0", "--store", "/data"]
