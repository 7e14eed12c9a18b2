# Every target sets up .venv by itself; nothing here needs root or more than the package index.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
READY := .venv/.ready

# Ray: no usage reports, addresses kept on loopback, an object store that fits small machines, `ray list actors`
# without a token (the dashboard listens on loopback only), replicas that need not give way to other programs.
export RAY_USAGE_STATS_ENABLED := 0
export RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER := 0
export RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES ?= 268435456
export RAY_AUTH_MODE ?= disabled
export RAY_worker_niceness ?= 0
# A dozen processes would each compile Ray anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup serve demo test check format bench clean

help:  ## Say what there is to make
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

setup: $(READY)  ## Make .venv with the pinned versions

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { echo "Python 3.11 is needed: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==0.13.9
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraints constraints.txt --editable '.[dev,train]'
	@touch $@

serve: $(READY)  ## Run the server on http://127.0.0.1:8000
	$(BIN)/serve run serve_config.yaml

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

clean:  ## Remove what was built, keep .venv
	rm -rf build .pytest_cache .ruff_cache .hypothesis
