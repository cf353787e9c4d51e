# Everything runs in .venv, made from constraints.txt, but for the comparison with the published AIDO.Cell code: its
# requirements are other ones, so it has .venv-oracle, made from constraints-oracle.txt. `make help` lists the targets.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
ORACLE ?= .venv-oracle
LOWEST ?= .venv-lowest
TRACKING ?= .venv-tracking
ARGS ?=

.PHONY: help setup demo test oracle lowest tracking bench-extract bench-latent bench-mini lint format types clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: $(VENV)/.done  ## make the virtual environment

$(VENV)/.done: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: setup  ## CD4 -> CD8 on the embedded model and data; figures in outputs/run/
	$(BIN)/steer run $(ARGS)

test: setup  ## every test that needs nothing but this checkout, and those marked data where STEER_DATA is set
	$(BIN)/python -m pytest $(ARGS)

# The published wheel's own requirements cannot be solved: hence --no-deps and a file that names every package.
# Nothing is compiled ahead: it would take longer than the tests, which import a small part.
ORACLE_PIP := $(ORACLE)/bin/pip install --quiet --disable-pip-version-check --no-compile

$(ORACLE)/.done: pyproject.toml constraints-oracle.txt
	$(PYTHON) -m venv $(ORACLE)
	$(ORACLE_PIP) -c constraints-oracle.txt torch==2.13.0
	$(ORACLE_PIP) --no-deps -r constraints-oracle.txt
	$(ORACLE_PIP) --no-deps -e .
	touch $@

oracle: $(ORACLE)/.done  ## parity with the published AIDO.Cell code, in .venv-oracle; prints a table
	$(ORACLE)/bin/python -m pytest -m oracle tests/oracle $(ARGS)

$(LOWEST)/.done: pyproject.toml constraints-lowest.txt
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/pip install --quiet --disable-pip-version-check -c constraints-lowest.txt -e . pytest
	touch $@

lowest: $(LOWEST)/.done  ## the tests that take a minute, with the lowest versions of every requirement, in .venv-lowest
	$(LOWEST)/bin/python -m pytest -W default tests/test_conf.py tests/test_store.py tests/activations tests/steering \
	  tests/models/test_aido_cell.py tests/report $(ARGS)

$(TRACKING)/.done: pyproject.toml
	$(PYTHON) -m venv $(TRACKING)
	$(TRACKING)/bin/pip install --quiet --disable-pip-version-check "trackio>=0.2" "mlflow-skinny>=3" pytest
	touch $@

tracking: $(TRACKING)/.done  ## Trackio and MLflow's file store, in .venv-tracking: their requirements are other ones
	PYTHONPATH=. $(TRACKING)/bin/python -m pytest --noconftest -W default tests/test_tracking.py $(ARGS)

bench-extract: $(ORACLE)/.done  ## time and memory of a cell beside the published code, and fit steps with and without the cache
	$(ORACLE)/bin/python -m benchmarks.extract $(ARGS)

bench-latent: setup  ## the exact latent path: time, gap, and the ratio to scikit-learn
	$(BIN)/python benchmarks/latent.py

bench-mini: setup  ## score the embedded model on data that it never saw
	$(BIN)/python benchmarks/mini.py

lint: setup  ## ruff
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

format: setup  ## ruff, in place
	$(BIN)/ruff check --fix . && $(BIN)/ruff format .

types: setup  ## mypy
	$(BIN)/mypy

clean:  ## remove the environment and caches, keep outputs
	rm -rf $(VENV) $(ORACLE) $(LOWEST) $(TRACKING) .pytest_cache .ruff_cache .mypy_cache
