# Every target sets up .venv by itself; nothing here needs root or more than the package index.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
READY := .venv/.ready

# What Ray must find in the environment is in one table, RAY of roadwork_serve/cli.py; serve, demo and test read it.
# A dozen processes would each compile Ray anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup serve demo test check format bench bench-gpu clean

help:  ## Say what there is to make
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

setup: $(READY)  ## Make .venv with the pinned versions

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { echo "Python 3.11 is needed: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==0.13.9
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraints constraints.txt --editable '.[dev,train,export]'
	@touch $@

serve: $(READY)  ## Run the server on http://127.0.0.1:8000
	$(BIN)/roadwork serve

demo: $(READY)  ## Send sample scenes through a server of its own, write build/demo.json
	$(BIN)/python -m benchmarks.demo

test: $(READY)  ## Run the tests
	$(BIN)/python -m pytest -q

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
