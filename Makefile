# Nothing but a Python with venv is needed: each target sets up .venv first, once.
# For PyTorch without CUDA on Linux: PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make demo

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo test test-fast test-research test-integrations lint format perf docs
demo: $(READY)  ## segment real photos from one example each, offline
	$(BIN)/prmagic demo --out demo_output

test: $(READY)  ## every test, a file at a time on each core
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder --cov --cov-report=term --cov-fail-under=90

test-fast: $(READY)  ## what takes seconds, without the page, for the inner loop
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder -m "not slow" --ignore tests/app

test-research: $(READY)  ## the tests of research/
	$(BIN)/python -m pytest research/tests

test-integrations: $(READY)  ## with a real Label Studio, in a virtual environment of its own
	test -x .venv-label-studio/bin/label-studio || ($(PYTHON) -m venv .venv-label-studio \
		&& .venv-label-studio/bin/python -m pip install --quiet 'label-studio==1.23.*')
	PRMAGIC_LABEL_STUDIO=$(CURDIR)/.venv-label-studio/bin/label-studio $(BIN)/python -m pytest -rP tests/integrations

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

perf: $(READY)  ## speed and memory, beside one encode and the published code's calls; a query beside its neural calls
	$(BIN)/python research/speed/compare.py
	$(BIN)/python research/speed/query.py

docs: $(READY)  ## the docs site, in site/; warnings and broken links are errors
	$(BIN)/zensical build --clean --strict

$(READY): pyproject.toml constraints.txt
	@echo "Setting up .venv: this downloads PyTorch and takes some minutes, once."
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@
