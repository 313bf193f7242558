# Tidemill: `make demo` shows it, `make test` proves it. Both set up what they need in .venv.

PYTHON ?= python3
SEEDS ?= 10000
FIRST ?= 1
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: help demo test quick setup check simulate soak values bench audit-dependencies lock clean

help:
	@echo "make demo      set up, then run the main job on real data in ./demo-bucket"
	@echo "make test      set up, then check style and types and run all tests"
	@echo "make setup     set up .venv alone"
	@echo "make check     style, types and sizes alone"
	@echo "make quick     style, types and the tests of single modules"
	@echo "make simulate  SEEDS=10000 FIRST=1: histories of the protocol under faults"
	@echo "make soak      watching runs on one bucket, killed and stopped while files change (SECONDS=600 STORE=file|s3|both SEED=1)"
	@echo "make values    MINUTES=10: arbitrary documents, Python values, Arrow tables and frames, by every path"
	@echo "make bench     measure against a hand-written script and dlt"

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Tidemill needs Python 3.11 or newer; set PYTHON=/path/to/python3")'
	$(PYTHON) -m venv .venv

.venv/demo-ready: requirements.lock pyproject.toml | .venv/bin/python
	@echo "setting up .venv (once; a minute or two)"
	$(PIP) install --quiet --require-hashes -r requirements.lock
	$(PIP) install --quiet --no-build-isolation --no-deps -e .
	@touch $@

.venv/ready: requirements-dev.lock .venv/demo-ready
	$(PIP) install --quiet --require-hashes -r requirements-dev.lock
	@touch $@

setup: .venv/ready

demo: .venv/demo-ready
	@$(BIN)/python -m examples.flights.demo

check: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/python .ci/sizes.py pipeline sinks infra tidemill
	$(BIN)/mypy
	@found=$$(PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/basedpyright --verifytypes pipeline --ignoreexternal) \
		|| { echo "$$found" | grep -v "^   pipeline"; exit 1; }; echo "$$found" | grep "completeness"

# What is worth running after each change: style, types and the tests of single modules, in less than 40 seconds.
quick: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2 -m "not slow" tests/unit

test: check
	$(BIN)/python -m pytest -n 4 --dist worksteal

simulate: .venv/ready
	@$(BIN)/python -m tests.simulation --seeds $(SEEDS) --first $(FIRST)

SECONDS ?= 600
STORE ?= both
SEED ?= 1
soak: .venv/ready
	@$(BIN)/python -m tests.soak --seconds $(SECONDS) --store $(STORE) --seed $(SEED)

MINUTES ?= 10
values: .venv/ready
	@$(BIN)/python -m tests.values --minutes $(MINUTES)

bench: .venv/ready
	@$(BIN)/python -m bench

lock: .venv/ready
	$(PIP) install --quiet uv
	$(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url --no-annotate -q \
		pyproject.toml --extra demo --extra build -o requirements.lock
	$(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url --no-annotate -q \
		pyproject.toml --extra dev -c requirements.lock -o requirements-dev.lock

# Not part of `make test`: it asks a service. Says so where it cannot, and fails on what is known and not ignored in .ci.
audit-dependencies: .venv/bin/python
	@$(BIN)/python .ci/audit.py requirements.lock requirements-dev.lock

clean:
	rm -rf .venv demo-bucket
