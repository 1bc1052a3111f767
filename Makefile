# `make` alone lists the targets. Needs python3 (3.11 to 3.13), make and git; everything else goes into .venv.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# DVC's stages call `kedro`, and must find the one in .venv.
export PATH := $(CURDIR)/$(BIN):$(PATH)
# Absolute, because `dvc exp run` works in copies of the project. Set it yourself to use a server.
export MLFLOW_TRACKING_URI ?= sqlite:///$(CURDIR)/mlflow.db
# Nobody is told what you run.
export DO_NOT_TRACK := 1
export KEDRO_DISABLE_TELEMETRY := 1
export MLFLOW_DISABLE_TELEMETRY := true
export DVC_NO_ANALYTICS := 1
export HF_HUB_DISABLE_TELEMETRY := 1
# Else the first run prints each step of making the database.
export MLFLOW_LOGGING_LEVEL ?= WARNING

.PHONY: help
help: ## list the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# Built again when pyproject.toml or constraints.txt is newer than the last installation.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(not ((3, 11) <= v < (3, 14)) and \
	  f"make: Python 3.11, 3.12 or 3.13 is needed, and $(PYTHON) is {v[0]}.{v[1]}. Name another one: make PYTHON=python3.12 $(MAKECMDGOALS)")'
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { echo "making $(VENV) ..."; $(PYTHON) -m venv --clear $(VENV); }
	@echo "installing packages into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt uv
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[dev,export,ray,viz]' --compile-bytecode
	@touch $@

.PHONY: venv
venv: $(STAMP) ## build .venv, or bring it up to date

.PHONY: demo
demo: $(STAMP) ## train and evaluate whatever changed, from the corpus to the report, then print the results
	@$(BIN)/dvc repro evaluation
	@$(BIN)/umt summary

.PHONY: tasks
tasks: $(STAMP) ## the demo, and then fine-tuning: classification, retrieval, question answering and action detection
	@$(BIN)/dvc repro
	@$(BIN)/umt summary

.PHONY: serve
serve: $(STAMP) ## open the search page, on the demo's clips or a corpus (NAME=mine) or port of yours (PORT=8001)
	@$(BIN)/umt serve $(NAME) $(if $(PORT),--port $(PORT))

.PHONY: teacher
teacher: $(STAMP) ## train the teacher that comes with the demo world again (an hour of one core)
	@$(BIN)/python -m studies.train_teacher

.PHONY: claims
claims: $(STAMP) ## compare what the paper compares, in many small runs, and write docs/claims.md
	@$(BIN)/dvc repro studies/dvc.yaml

.PHONY: experiments
experiments: $(STAMP) ## print the experiments of `dvc exp run`: what was changed in each, and the headline numbers
	@$(BIN)/umt experiments $(NAME)

.PHONY: summary
summary: $(STAMP) ## print the results of the evaluation and of the tasks
	@$(BIN)/umt summary

.PHONY: test
test: $(STAMP) ## run the tests; ARGS="-k name" for some of them
	@$(BIN)/python -m pytest $(ARGS)

.PHONY: test-all
test-all: $(STAMP) ## run the tests, those of three seconds and more too
	@$(BIN)/python -m pytest --override-ini addopts="-ra --strict-markers --strict-config -n auto --dist loadfile" $(ARGS)

.PHONY: lint
lint: $(STAMP) ## check style (ruff) and types (mypy)
	@$(BIN)/ruff check .
	@$(BIN)/mypy

.PHONY: mlflow
mlflow: $(STAMP) ## open the runs in MLflow at http://127.0.0.1:5000 (PORT=5001 for another port)
	@$(BIN)/mlflow server --backend-store-uri "$$MLFLOW_TRACKING_URI" --host 127.0.0.1 --port $(or $(PORT),5000) --workers 1

.PHONY: viz
viz: $(STAMP) ## open the picture of the pipelines (Kedro-Viz)
	@$(BIN)/kedro viz run

.PHONY: lock-check
lock-check: $(STAMP) ## fail if dvc.lock does not belong to the code, parameters and data that are here
	@$(BIN)/umt status --check

.PHONY: wheel
wheel: $(STAMP) ## build the package into dist/
	@$(BIN)/uv build --quiet --wheel --out-dir dist
	@ls dist/*.whl

.PHONY: constraints
constraints: $(STAMP) ## write constraints.txt anew from pyproject.toml (UPGRADE=1 for the newest versions)
	@$(BIN)/uv pip compile pyproject.toml --extra dev --extra export --extra ray --extra viz --python-version 3.11 --no-annotate --no-header --quiet \
	  $(if $(UPGRADE),--upgrade) --output-file constraints.txt

.PHONY: clean
clean: ## delete caches, build leftovers, kept features and resume points; results and data stay
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis data/.checkpoints data/*/.checkpoints
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
