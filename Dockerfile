# The page, on a CPU: docker build -t prmagic . && docker run --rm -p 7860:7860 prmagic
FROM python:3.12-slim

RUN useradd --create-home --uid 1000 prmagic
WORKDIR /prmagic
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY src ./src
RUN pip install --no-cache-dir --extra-index-url https://download.pytorch.org/whl/cpu \
    --constraint constraints.txt ".[app]"

USER 1000
EXPOSE 7860
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:7860/', timeout=4)"]
ENTRYPOINT ["prmagic", "app", "--host", "0.0.0.0"]
