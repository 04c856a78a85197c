# Nothing but a Python with venv is needed: each target sets up .venv first, once.
# For PyTorch without CUDA on Linux: PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make demo

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo test lint format perf
demo: $(READY)  ## segment real photos from one example each, offline
	$(BIN)/prmagic demo --out demo_output

test: $(READY)  ## every test, a file at a time on each core
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --cov --cov-report=term --cov-fail-under=90

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

perf: $(READY)  ## speed and memory, beside one encode and the published code; hours, can be interrupted
	$(BIN)/python perf/compare.py

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@
