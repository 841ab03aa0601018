PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# `mlflow run --env-manager local` takes the `python` on PATH.
export PATH := $(CURDIR)/$(BIN):$(PATH)
export MLFLOW_DISABLE_TELEMETRY ?= true
PORT ?= 5000
STORE ?= $(or $(MLFLOW_TRACKING_URI),sqlite:///mlflow.db)
DASHBOARD_PORT ?= 8080
STORAGE ?= studies.journal
FUZZ_INPUTS ?= 100000
FUZZ_SEED ?= $(shell date +%s)

# In an activated shell, `mlflow run` prints no lines about the tables of a new database and its own steps.
QUIET := export MLFLOW_LOGGING_LEVEL="$${MLFLOW_LOGGING_LEVEL:-WARNING}"

.DEFAULT_GOAL := help
.PHONY: help install run test test-quick fuzz lint audit ui dashboard bench clean

help:  ## Show this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(VENV)/installed  ## Create .venv and install the project into it

run: $(VENV)/installed  ## Train a small model in about a minute and record it
	@MLFLOW_LOGGING_LEVEL=WARNING mlflow run . --env-manager local --experiment-name quick-start
	@echo 'Done. To look at the run: make ui'

test: $(VENV)/installed-test  ## Run all tests
	$(BIN)/python -m pytest --numprocesses=logical --dist=loadfile --no-loadscope-reorder $(PYTEST_ARGS)

test-quick: $(VENV)/installed-test  ## Run the tests that neither train nor start a process (about a minute on two cores)
	$(BIN)/python -m pytest --numprocesses=logical --dist=loadfile --no-loadscope-reorder -m 'not slow' $(PYTEST_ARGS)

fuzz: $(VENV)/installed-test  ## Try 100,000 mangled inputs in half an hour (FUZZ_SEED=5 for the same ones again)
	FUZZ_INPUTS=$(FUZZ_INPUTS) FUZZ_SEED=$(FUZZ_SEED) $(BIN)/python -m pytest tests/fuzz $(PYTEST_ARGS)

lint: $(VENV)/installed-lint  ## Check style, types and generated pages
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m benchmarks --check

audit: $(VENV)/installed-audit  ## Look for known vulnerabilities of what is installed (asks PyPI)
	$(BIN)/pip-audit --local --skip-editable

ui: $(VENV)/installed  ## Open the MLflow UI on http://127.0.0.1:5000 (PORT=... for another)
	@case '$(STORE)' in http*) echo 'The runs are on a server, open $(STORE)'; exit 1;; esac
	@$(BIN)/python -c 'import socket; socket.create_server(("127.0.0.1", $(PORT))).close()' 2> /dev/null || \
		{ echo 'Port $(PORT) cannot be used, by another UI perhaps; take another: make ui PORT=5001'; exit 1; }
	@echo 'The runs in $(STORE) are soon on http://127.0.0.1:$(PORT), under "Model training"; Ctrl+C ends it.'
	@MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false mlflow server --host 127.0.0.1 --port $(PORT) --workers 1 \
		--backend-store-uri '$(STORE)'

dashboard: $(VENV)/installed-dashboard  ## Open Optuna's dashboard on http://127.0.0.1:8080 (STORAGE=... for other studies)
	optuna-dashboard $(STORAGE) --host 127.0.0.1 --port $(DASHBOARD_PORT)

bench: $(VENV)/installed-bench  ## Measure speed beside limits and other libraries (BENCH_ARGS=--quick for minutes)
	$(BIN)/python -m benchmarks $(BENCH_ARGS)

clean:  ## Remove .venv and everything that tools made; runs and checkpoints stay
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo 'Python 3.11 or newer is needed; name one with: make PYTHON=python3.12 ...'; exit 1; }
	@echo 'Creating the virtual environment $(VENV) (a few seconds).'
	@$(PYTHON) -m venv $(VENV)

# The exact versions of conda.yaml, so that every machine runs what was tested; constraints bear no [extras].
$(VENV)/constraints.txt: $(VENV)/bin/python conda.yaml
	@sed -n 's/\[.*\]//; s/^ *- \(.*==.*\)/\1/p' conda.yaml > $@

$(VENV)/installed: $(VENV)/constraints.txt pyproject.toml
	@echo 'Installing the project with PyTorch and MLflow into $(VENV): 1 to 10 minutes the first time, up to 6 GB on Linux.'
	@$(BIN)/python -m pip install --quiet --constraint $(VENV)/constraints.txt --editable .
	@grep -q MLFLOW_LOGGING_LEVEL $(BIN)/activate || echo '$(QUIET)' >> $(BIN)/activate
	@touch $@

$(VENV)/installed-%: $(VENV)/installed
	@echo 'Installing what `make $*` needs in addition into $(VENV): about a minute the first time.'
	@$(BIN)/python -m pip install --quiet --constraint $(VENV)/constraints.txt --editable '.[$*]'
	@touch $@
