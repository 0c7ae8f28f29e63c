# make serve and make test are all a newcomer needs: Python 3.11 or newer, and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
LOCK ?= cpu
EXTRAS ?=
IMAGE ?= logitserve
ARGS ?=

.PHONY: help setup serve test swap-proof conformance real-heads alerts page lint format models-check accuracy bench bench-peers bench-gpu conformance-peers image locks clean

help: ## what can be made
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 19

setup: $(VENV)/.dev ## everything a developer needs, in .venv

serve: $(VENV)/.serve ## serve the shipped heads on http://127.0.0.1:8000 (ARGS="--port 9000" for more)
	@$(BIN)/logitserve serve --models models $(ARGS)

# Tests start hundreds of processes: bytecode is kept, where the environment says otherwise each compiles the service anew.
# And the cores are taken by the tests already: threads of BLAS that wait for each other would only spin.
# Three workers for two cores, as a third of the time tests wait for processes and for what must not happen too early.
# The order is that of tests/conftest.py: by themselves, scopes of few tests come last, and those start real services.
test: $(VENV)/.dev ## all tests, with branch coverage
	@PYTHONDONTWRITEBYTECODE= OPENBLAS_NUM_THREADS=1 \
		$(BIN)/pytest -n 3 --dist loadscope --no-loadscope-reorder --cov --cov-report=term $(ARGS)

conformance: .venv-conformance/.ready ## foreign clients as they come, in an environment of their own: Triton's, KServe's, MLflow's
	@.ci/get-perf-analyzer .perf-analyzer >/dev/null || echo "perf_analyzer cannot be had here: its tests are left out"
	@.venv-conformance/bin/python -m pytest tests/conformance $(ARGS)

.venv-conformance/.ready: requirements/conformance.lock requirements/build.lock pyproject.toml
	@echo "installing foreign clients into .venv-conformance (once, some 700 MB)"
	@$(PYTHON) -m venv .venv-conformance
	@.venv-conformance/bin/python -m pip install -q --require-hashes -r requirements/build.lock
	@.venv-conformance/bin/python -m pip install -q --require-hashes -r requirements/conformance.lock
	@.venv-conformance/bin/python -m pip install -q --no-deps --no-build-isolation -e .
	@touch $@

real-heads: .venv-real-heads/.ready ## export heads that others trained, with PyTorch, Keras, ONNX and more, and hold what is served against their packages
	@.venv-real-heads/bin/python -m pytest tests/real_heads -s $(ARGS)

alerts: $(VENV)/.dev ## the alert rules and the dashboard, held against a real Prometheus (Debian's, unpacked into .prometheus unless there is one)
	@.ci/get-prometheus .prometheus
	@WITH_PROMETHEUS=1 PATH="$(CURDIR)/.prometheus:$$PATH" $(BIN)/pytest tests/deploy -q $(ARGS)

NPM_BIN := tests/page/node_modules/.bin

page: $(VENV)/.dev tests/page/node_modules/.ready ## the page and /docs: lint, types and units of their scripts, then both in a real Chromium, looked over by axe (needs node 20 or newer)
	@.ci/get-chromium
	@$(NPM_BIN)/eslint --config tests/page/eslint.config.js --max-warnings 0 service/page tests/page
	@$(NPM_BIN)/tsc --project tests/page
	@node --test --test-reporter spec tests/page/*.test.js
	@WITH_BROWSER=1 $(BIN)/pytest tests/browser -q $(ARGS)

tests/page/node_modules/.ready: tests/page/package.json tests/page/package-lock.json tests/page/.npmrc
	@command -v npm >/dev/null || { echo "make page needs node 20 or newer, with npm; there is no npm on the PATH"; exit 1; }
	@cd tests/page && npm ci --silent
	@touch $@

.venv-real-heads/.ready: requirements/real-heads.lock requirements/build.lock pyproject.toml | $(BIN)/uv
	@echo "installing heads of others and the libraries that made them into .venv-real-heads (once, some 6 GB)"
	@$(PYTHON) -m venv .venv-real-heads
	@$(BIN)/uv pip install -q --python .venv-real-heads/bin/python --require-hashes -r requirements/build.lock
	@$(BIN)/uv pip install -q --python .venv-real-heads/bin/python --no-deps --require-hashes -r requirements/real-heads.lock
	@$(BIN)/uv pip install -q --python .venv-real-heads/bin/python --no-deps --no-build-isolation -e .
	@touch $@

lint: $(VENV)/.dev ## style, strict types, shell scripts, Dockerfile
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/shellcheck .ci/run .ci/first-run .ci/get-perf-analyzer .ci/get-prometheus .ci/get-chromium
	@$(BIN)/hadolint Dockerfile

format: $(VENV)/.dev ## put the code into the house's form
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

swap-proof: $(VENV)/.dev ## 10,000 requests while versions are swapped every second, some of them broken
	@SWAP_REQUESTS=10000 $(BIN)/pytest tests/chaos/test_swap.py -q -s $(ARGS)

models-check: $(VENV)/.dev ## build the shipped heads again, under two kinds of CPU, and compare the bytes
	@$(BIN)/python models/build.py --check

accuracy: $(VENV)/.dev ## the table of errors in ulp: ours and the libraries' that are installed (ARGS="--quick")
	@$(BIN)/python benchmarks/accuracy.py $(ARGS)

bench: $(VENV)/.dev ## the service against its bound and its floor (ARGS="--quick"; needs wrk and an idle machine)
	@$(BIN)/python benchmarks/bench.py $(ARGS)

bench-peers: $(VENV)/.dev ## the service against its peers, each installed into .bench-peers
	@$(BIN)/python benchmarks/peers.py $(ARGS)

conformance-peers: $(VENV)/.dev ## hold peers against the numeric contract, each installed into .bench-peers
	@$(BIN)/python benchmarks/conformance_peers.py $(ARGS)

bench-gpu: ## the heads on an NVIDIA GPU: their results, then their throughput, in an environment of its own
	@$(MAKE) --no-print-directory VENV=.venv-gpu LOCK=cuda .venv-gpu/.serve
	@.venv-gpu/bin/python benchmarks/gpu.py $(ARGS)

image: ## build the Docker image (LOCK=cuda for NVIDIA GPUs, EXTRAS="grpc remote redis otel" for what the extras do)
	@docker version >/dev/null 2>&1 || { echo "make image needs a running Docker engine; 'docker version' finds none"; exit 1; }
	docker build --build-arg LOCK=$(LOCK) --build-arg EXTRAS=$(EXTRAS) --tag $(IMAGE) .

locks: | $(BIN)/uv ## resolve the locks again
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-annotate --no-header pyproject.toml --extra cpu -o requirements/cpu.lock
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-annotate --no-header pyproject.toml --extra cuda -o requirements/cuda.lock
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-annotate --no-header requirements/build.in -o requirements/build.lock
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-annotate --no-header requirements/grpc.in -c requirements/cpu.lock -o requirements/grpc.lock
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-annotate --no-header requirements/remote.in -c requirements/cpu.lock -o requirements/remote.lock
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-annotate --no-header requirements/redis.in -c requirements/cpu.lock -o requirements/redis.lock
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-annotate --no-header requirements/otel.in -c requirements/cpu.lock -o requirements/otel.lock
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-annotate --no-header pyproject.toml requirements/build.in --extra cpu --extra grpc --extra remote --extra redis --extra otel --extra plot --group dev -c requirements/cpu.lock --override requirements/override.in -o requirements/dev.lock
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-annotate --no-header pyproject.toml requirements/conformance.in --extra cpu --extra grpc -o requirements/conformance.lock
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-annotate --no-header pyproject.toml requirements/real-heads.in --extra cpu --override requirements/override.in --override requirements/real-heads-override.in -o requirements/real-heads.lock

$(BIN)/uv:
	@$(MAKE) setup

clean: ## remove what make made
	rm -rf $(VENV) .coverage* .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist tests/page/node_modules

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "logitserve needs Python 3.11 or newer; name one: make PYTHON=/path/to/python3.12"; exit 1; }
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.serve: requirements/$(LOCK).lock requirements/build.lock pyproject.toml | $(BIN)/python
	@echo "installing what the service needs into $(VENV) (once)"
	@$(BIN)/python -m pip install -q --require-hashes -r requirements/build.lock
	@$(BIN)/python -m pip install -q --require-hashes -r requirements/$(LOCK).lock
	@$(BIN)/python -m pip install -q --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: requirements/dev.lock pyproject.toml | $(BIN)/python
	@echo "installing what tests and checks need into $(VENV) (once, some 800 MB)"
	@$(BIN)/python -m pip install -q --no-deps --require-hashes -r requirements/dev.lock
	@$(BIN)/python -m pip install -q --no-deps --no-build-isolation -e .
	@touch $@ $(VENV)/.serve
