.DEFAULT_GOAL := help
.PHONY: help setup demo test check format bench soak lock types typescript clean

PYTHON ?= python3
BIN := .venv/bin
MARK := .venv/.wahafleet-setup
# Processes that tests run on, one more than cores of a small machine: many tests wait. PYTEST_WORKERS=0 runs them in one.
PYTEST_WORKERS ?= 3
# How many times the quick number of examples `make soak` tries; CI asks for a tenth.
SOAK ?= 50
# How many seeds of the simulation `make soak` runs; a seed takes a few seconds of one core.
SEEDS ?= 1000

help: ## Print the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(MARK) ## Put everything into .venv

$(MARK): requirements/dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "wahafleet needs Python 3.11 or newer; name one with: make $(or $(MAKECMDGOALS),setup) PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: setup ## Run everything on this machine (ARGS="--port 8001"); Ctrl-C ends it
	@exec $(BIN)/wahafleet up $(ARGS)

typescript: setup ## Put the TypeScript tools into .venv (tests that need them are skipped without)
	@$(BIN)/python tools/typescript.py install

types: typescript ## Write docs/api/wahafleet.d.ts anew
	$(BIN)/python tools/typescript.py generate

test: setup ## All tests, end to end included (ARGS="-k ports")
	@$(BIN)/python tools/typescript.py install || true
	$(BIN)/pytest -n $(PYTEST_WORKERS) --dist loadgroup $(ARGS)

check: setup ## Formatting, lint, types, import rules, jobspecs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/wahafleet jobspec check

format: setup ## Put the code into its form
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: setup ## A chip's way to port and QR, fleets of 100 and 1,000, polls of pages, the guard, as JSON (ARGS, FLEET, POLLS, TUNNELS="--rounds 3")
	$(BIN)/python -m bench $(ARGS)
	$(BIN)/python -m bench.fleet $(FLEET)
	$(BIN)/python -m bench.api $(POLLS)
	$(BIN)/python -m bench.egress $(TUNNELS)

soak: setup ## Property tests with SOAK times the examples (50); takes long
	WAHAFLEET_TEST_FACTOR=$(SOAK) $(BIN)/pytest -n $(PYTEST_WORKERS) -m hypothesis --timeout 7200 tests/unit $(ARGS)
	WAHAFLEET_TEST_FACTOR=$(SOAK) $(BIN)/pytest -n $(PYTEST_WORKERS) --timeout 7200 tests/integration/api/test_schema.py $(ARGS)
	WAHAFLEET_TEST_FACTOR=$(SOAK) $(BIN)/pytest -n 0 --timeout 7200 tests/integration/egress/test_fuzz.py $(ARGS)
	WAHAFLEET_TEST_FACTOR=$(SOAK) $(BIN)/pytest -n 0 -s tests/integration/fence/test_fence_double.py $(ARGS)
	WAHAFLEET_SIMULATION_SEEDS=$(SEEDS) $(BIN)/pytest -n $(PYTEST_WORKERS) --timeout 7200 tests/simulation/test_simulation.py $(ARGS)
	WAHAFLEET_FENCE_SEEDS=$$((20 * $(SEEDS))) $(BIN)/pytest -n $(PYTEST_WORKERS) --timeout 7200 tests/simulation/fence/test_fence.py $(ARGS)

lock: ## Pin all dependencies anew (needs uv on PATH)
	@command -v uv >/dev/null || { echo "uv is not on PATH; install it with: pip install uv"; exit 1; }
	uv pip compile --quiet --universal --generate-hashes --no-header --no-emit-index-url \
	  --python-version 3.11 --extra dev pyproject.toml -o requirements/dev.lock
	uv pip compile --quiet --universal --generate-hashes --no-header --no-emit-index-url \
	  --python-version 3.11 -c requirements/dev.lock pyproject.toml -o requirements/runtime.lock

clean: ## Remove .venv and what tools left
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
