# Everything runs in .venv, made from constraints.txt, but for the comparison with the published AIDO.Cell code: its
# requirements are other ones, so it has .venv-oracle, made from constraints-oracle.txt. `make help` lists the targets.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
ORACLE ?= .venv-oracle
ARGS ?=

.PHONY: help setup demo figures test oracle bench-extract bench-fit bench-mini lint format types clean

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

# command:experiment; each run's folder is outputs/figures/<experiment>, its figures in plots/ as PNG, SVG and CSV
FIGURES := run:cd4_cd8_latent run:cd4_cd8_expression run:mirror_boxplot diagnose:recruitment diagnose:lambda_path \
	diagnose:x8_vs_x16 pareto:pareto
FIGURES += $(if $(wildcard $(or $(STEER_DATA),data)/kang_ifnb.h5ad),run:kang_ifnb transfer:kang_ifnb_transfer)

figures: setup  ## every figure of the study; those of Kang's data where STEER_DATA has it
	@for pair in $(FIGURES); do name=$${pair#*:}; \
	  $(BIN)/steer $${pair%%:*} experiment=$${name%_transfer} "hydra.run.dir=\$${outputs}/figures/$$name" $(ARGS) || exit 1; done

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

bench-extract: $(ORACLE)/.done  ## time and memory of a cell beside the published code, and fit steps with and without the cache
	$(ORACLE)/bin/python -m benchmarks.extract $(ARGS)

bench-fit: setup  ## the latent fit, exact and by Adam: time, objective and gap, at mini and at 10,400 features
	$(BIN)/python benchmarks/fit.py $(ARGS)

bench-mini: setup  ## score the embedded model on data that it never saw
	$(BIN)/python benchmarks/mini.py

lint: setup  ## ruff
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

format: setup  ## ruff, in place
	$(BIN)/ruff check --fix . && $(BIN)/ruff format .

types: setup  ## mypy
	$(BIN)/mypy

clean:  ## remove the environment and caches, keep outputs
	rm -rf $(VENV) $(ORACLE) .pytest_cache .ruff_cache .mypy_cache
