# Everything runs in .venv, made from constraints.txt, but for the comparisons with other code, whose requirements are other
# ones: the published AIDO.Cell code has .venv-oracle, made from constraints-oracle.txt, and the other SAE trainers have
# .venv-peers, made from constraints-peers.txt. `make help` lists the targets.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
ORACLE ?= .venv-oracle
PEERS ?= .venv-peers
LOWEST ?= .venv-lowest
TRACKING ?= .venv-tracking
BENCH ?= outputs/bench-sae
ARGS ?=
JOBS ?= 2

# where bytecode is not kept, as in many containers, each process compiles all that it imports: some 12 s of CPU time
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup demo figures test oracle oracle-sae lowest tracking bench-extract bench-sae bench-fit bench-annotate bench-browse \
  bench-mini bench-manifold bench-circuits bench-run bench-models bench-adapter go-sets lint format types clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: $(VENV)/.done  ## make the virtual environment

# nothing is compiled ahead: most of it is never imported, and the rest is at its first import
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt

$(VENV)/.base: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch==2.13.0
	$(PIP) -e .
	touch $@

$(VENV)/.done: $(VENV)/.base
	$(PIP) -e '.[dev]'
	touch $@

demo: $(VENV)/.base  ## CD4 -> CD8 on the embedded model and data; figures in outputs/run/
	$(BIN)/steer run $(ARGS)

# command:experiment; each run's folder is outputs/figures/<experiment>, its figures in plots/ as PNG, SVG and CSV
FIGURES := run:cd4_cd8_latent run:cd4_cd8_expression run:mirror_boxplot run:robust run:no_difference diagnose:recruitment \
	diagnose:lambda_path diagnose:x8_vs_x16 pareto:pareto
FIGURES += $(if $(wildcard $(or $(STEER_DATA),data)/kang_ifnb.h5ad),run:kang_ifnb transfer:kang_ifnb_transfer)

figures: setup  ## every figure of the study; those of Kang's data where STEER_DATA has it
	@for pair in $(FIGURES); do name=$${pair#*:}; \
	  $(BIN)/steer $${pair%%:*} experiment=$${name%_transfer} "hydra.run.dir=\$${outputs}/figures/$$name" $(ARGS) || exit 1; done

test: setup  ## every test that needs nothing but this checkout, and those marked data where STEER_DATA is set; in JOBS processes
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(ARGS)

# The published wheel's own requirements cannot be solved: hence --no-deps and a file that names every package.
# Nothing is compiled ahead: it would take longer than the tests, which import a small part.
ORACLE_PIP := $(ORACLE)/bin/pip install --quiet --disable-pip-version-check --no-compile

$(ORACLE)/.done: pyproject.toml constraints-oracle.txt
	$(PYTHON) -m venv $(ORACLE)
	$(ORACLE_PIP) -c constraints-oracle.txt torch==2.13.0
	$(ORACLE_PIP) --no-deps -r constraints-oracle.txt
	$(ORACLE_PIP) --no-deps -e .
	touch $@

# No resolver could put the three together, and torch's other builds bring CUDA: hence again every package by name.
PEERS_PIP := $(PEERS)/bin/pip install --quiet --disable-pip-version-check --no-compile

$(PEERS)/.done: pyproject.toml constraints-peers.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS_PIP) -c constraints-peers.txt torch==2.13.0
	$(PEERS_PIP) --no-deps -r constraints-peers.txt
	$(PEERS_PIP) --no-deps -e .
	touch $@

oracle: $(ORACLE)/.done oracle-sae  ## parity with the published AIDO.Cell code and SAELens, in their environments; prints a table
	$(ORACLE)/bin/python -m pytest -m oracle tests/oracle $(ARGS)

oracle-sae: $(PEERS)/.done  ## the half of it about SAE files and trainers, in .venv-peers
	$(PEERS)/bin/python -m pytest --noconftest -m oracle tests/oracle/test_sae_*.py $(ARGS)

$(LOWEST)/.done: pyproject.toml constraints-lowest.txt
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/pip install --quiet --disable-pip-version-check -c constraints-lowest.txt -e . pytest
	touch $@

lowest: $(LOWEST)/.done  ## the tests that take a minute, with the lowest versions of every requirement, in .venv-lowest
	$(LOWEST)/bin/python -m pytest -W default tests/test_conf.py tests/test_store.py tests/activations tests/steering \
	  tests/evaluate/test_inference.py tests/models/test_aido_cell.py tests/report $(ARGS)

$(TRACKING)/.done: pyproject.toml
	$(PYTHON) -m venv $(TRACKING)
	$(TRACKING)/bin/pip install --quiet --disable-pip-version-check "trackio>=0.2" "mlflow-skinny>=3" pytest
	touch $@

tracking: $(TRACKING)/.done  ## Trackio and MLflow's file store, in .venv-tracking: their requirements are other ones
	PYTHONPATH=. $(TRACKING)/bin/python -m pytest --noconftest -W default tests/test_tracking.py $(ARGS)

bench-extract: $(ORACLE)/.done  ## time and memory of a cell beside the published code, and fit steps with and without the cache
	$(ORACLE)/bin/python -m benchmarks.extract $(ARGS)

bench-sae: setup $(PEERS)/.done  ## train SAEs beside sparsify, dictionary-learning and SAELens; ARGS="--quick" is short
	$(BIN)/python -m benchmarks.sae.tokens $(BENCH)
	$(PEERS)/bin/python -m benchmarks.sae --folder $(BENCH) $(ARGS)

bench-fit: setup  ## the latent fit, exact and by Adam: time, objective and gap, at mini and at 10,400 features
	$(BIN)/python benchmarks/fit.py $(ARGS)

bench-annotate: setup  ## all features against all GO sets at once, beside gseapy list by list
	$(BIN)/python benchmarks/annotate.py

bench-browse: setup  ## the feature browser at 10,000 features: size and search times in a headless Chromium
	$(BIN)/python -m benchmarks.browse $(ARGS)

bench-manifold: setup  ## are steered cells where real ones are? Remedies beside the dense mean difference, at equal gap
	$(BIN)/python -m benchmarks.manifold $(ARGS)

bench-circuits: setup  ## seconds a source feature on cached streams, beside a whole forward pass an ablation; same effects
	$(BIN)/python -m benchmarks.circuits $(ARGS)

bench-adapter: setup  ## milliseconds a target for adapters, the exact lasso and Adam, and how far from the optimum each is
	$(BIN)/python -m benchmarks.adapter $(ARGS)

bench-models: setup  ## scGPT and Geneformer at their real sizes, random weights, beside second implementations
	$(BIN)/python -m benchmarks.models $(ARGS)

bench-run: setup  ## a whole run, ten lambdas over one, light commands and memory, beside the commit before
	$(BIN)/python -m benchmarks.run $(ARGS)

go-sets: setup  ## build the shipped Gene Ontology files from Debian's packages, and say whether they changed
	$(BIN)/python scripts/build_gene_ontology.py $(ARGS)

bench-mini: setup  ## score an embedded model on data that it never saw
	$(BIN)/python -m benchmarks.mini $(ARGS)

lint: setup  ## ruff
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

format: setup  ## ruff, in place
	$(BIN)/ruff check --fix . && $(BIN)/ruff format .

types: setup  ## mypy
	$(BIN)/mypy

clean:  ## remove the environment and caches, keep outputs
	rm -rf $(VENV) $(ORACLE) $(PEERS) $(LOWEST) $(TRACKING) .pytest_cache .ruff_cache .mypy_cache
