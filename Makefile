# Every target does its own set-up: a machine with Python >= 3.11 and make needs nothing else.
# Two environments in one directory: what runs (make demo) needs no developer's tools.

PYTHON ?= python3
VENV ?= .venv
PYTEST_ARGS ?=
INPUTS ?= 1000000
MESSAGES ?= 50000
SEED_GIVEN := $(SEED)
SEED ?= 7
MINUTES ?= 5
SEEDS ?= 100
PROFILE ?= all
SIMULATE_ARGS ?=
BENCH_ARGS ?=

BIN := $(VENV)/bin
RUN_STAMP := $(VENV)/.installed-run
DEV_STAMP := $(VENV)/.installed-dev
BENCH_STAMP := $(VENV)/.installed-bench

.DEFAULT_GOAL := help
.PHONY: help venv demo test test-long soak fuzz simulate bench check lint types format clean
# Two targets of one call share the environment and the ports' machine: one at a time.
.NOTPARALLEL:

help: ## Show the targets
	@grep -hE '^[a-z][a-z-]*:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## ?/\1\t/' | awk -F'\t' '{printf "  make %-10s %s\n", $$1, $$2}'
	@echo "Variables: PYTHON (now $(PYTHON); 3.11 or newer), VENV (now $(VENV)), PYTEST_ARGS, BENCH_ARGS"

venv: $(DEV_STAMP) ## Make the virtual environment with everything a developer needs

demo: $(RUN_STAMP) ## Stream a real data set through three brokers, kill one on the way, compare
	@$(BIN)/python examples/demo.py

test: $(DEV_STAMP) ## Run the test suite (what takes minutes is left to test-long)
	@$(BIN)/python -m pytest -m "not long" -n 2 $(PYTEST_ARGS)

test-long: $(DEV_STAMP) ## Run the tests that take minutes
	@$(BIN)/python -m pytest -m "long" $(PYTEST_ARGS)

soak: $(DEV_STAMP) ## Break a real cluster at random under load: MINUTES=5, SEED=… to repeat the same faults
	@SEED="$(SEED_GIVEN)" $(BIN)/python -m callboard.testing.soak $(MINUTES)

fuzz: $(DEV_STAMP) ## Feed decoders and a live cluster's ports with bad input: INPUTS=1000000 and MESSAGES=50000, SEED=7
	@INPUTS=$(INPUTS) MESSAGES=$(MESSAGES) SEED=$(SEED) $(BIN)/python -m pytest tests/fuzz $(PYTEST_ARGS)

simulate: $(DEV_STAMP) ## Run seeds of the simulated cluster: SEEDS=100, or one: SEED=7 PROFILE=default
	@$(BIN)/python -m callboard.testing.simulate $(if $(filter command line environment,$(origin SEED)),--seed $(SEED),--seeds $(SEEDS)) --profile $(PROFILE) $(SIMULATE_ARGS)

bench: $(BENCH_STAMP) ## Measure everything as ratios, some minutes; BENCH_ARGS="b --quick" for less (benchmarks/README.md)
	@$(BIN)/python -m benchmarks --json bench.json $(BENCH_ARGS)

check: lint types test ## Run all that a change must pass: format, lint, import layers, types, tests

lint: $(DEV_STAMP) ## Check format, lint and import layers
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/lint-imports

types: $(DEV_STAMP) .mypy/callboard ## Check the types of the package (mypy, strict)
	@cd .mypy && $(abspath $(BIN))/mypy -p callboard --config-file ../pyproject.toml

format: $(DEV_STAMP) ## Format the code and mend what the linter can mend
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

clean: ## Remove what the other targets made (no data directory of a cluster)
	rm -rf $(VENV) bench.json .mypy .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The root of the repository *is* the package: mypy follows its relative imports only below a directory "callboard".
.mypy/callboard:
	@mkdir -p .mypy
	@ln -sfn .. .mypy/callboard

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  found=$$($(PYTHON) --version 2>/dev/null) || found="not there"; \
	  echo "make: Callboard needs Python 3.11 or newer; '$(PYTHON)' is $$found." \
	       "Say which one to use: make PYTHON=/path/to/python3.12 …" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { \
	  echo "make: '$(PYTHON) -m venv' failed; on Debian and Ubuntu: apt install python3-venv" >&2; rm -rf $(VENV); exit 1; }

$(RUN_STAMP): pyproject.toml | $(VENV)/bin/python
	@echo "Installing Callboard in $(VENV) …"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(DEV_STAMP): pyproject.toml | $(VENV)/bin/python
	@echo "Installing Callboard and its developers' tools in $(VENV) …"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@ $(RUN_STAMP)

$(BENCH_STAMP): $(DEV_STAMP)
	@echo "Installing what the benchmarks compare with …"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[bench]'
	@touch $@
