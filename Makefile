# The only door to the project's commands: `make help` lists them.

PYTHON ?= python3
INPUT ?=
OUTPUT ?= out/vectors.npy

VENV := .venv
BIN := $(VENV)/bin
RUST := $(shell find rust -name '*.rs' -o -name 'Cargo.toml') Cargo.toml Cargo.lock
CARGO_TEST_FLAGS ?=

.DEFAULT_GOAL := help
.PHONY: help run test test-rust test-python test-openai2 build lint fmt typecheck loom bench bench-tokens wheel ci clean

help: ## List the commands
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

run: build ## Embed the project's documentation, or INPUT=path, into out/vectors.npy
	$(BIN)/tollway embed $(or $(INPUT),docs) $(OUTPUT) --split paragraph

test: test-rust test-python test-openai2 ## Run every test: cargo and pytest

test-rust:
	cargo test --workspace --quiet $(CARGO_TEST_FLAGS)

test-python: build $(VENV)/.test
	$(BIN)/python -m pytest -q

# The wire format as the official SDK of the other major version reads it.
test-openai2: build $(VENV)/.openai2
	PYTHONPATH=$(VENV)/openai2 $(BIN)/python -m pytest -q tests/conformance

build: $(VENV)/.build ## Set up .venv with a release build and the extra `local`

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "tollway needs Python 3.11 or later; name one with PYTHON=python3.12"; exit 1; }
	@cargo --version >/dev/null || { echo "tollway is built with Rust: see https://rustup.rs"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip 'maturin>=1.10,<2'
	@touch $@

$(VENV)/.build: $(VENV)/.python pyproject.toml $(RUST)
	VIRTUAL_ENV=$(abspath $(VENV)) $(BIN)/maturin develop --release --quiet --extras local
	@touch $@

$(VENV)/.test: $(VENV)/.python pyproject.toml
	$(BIN)/python -m pip install --quiet --group test
	@touch $@

$(VENV)/.lint: $(VENV)/.python pyproject.toml
	$(BIN)/python -m pip install --quiet --group lint --group test
	@touch $@

$(VENV)/.bench: $(VENV)/.python pyproject.toml
	$(BIN)/python -m pip install --quiet --group bench --group test
	@touch $@

$(VENV)/.openai2: $(VENV)/.python pyproject.toml
	$(BIN)/python -m pip install --quiet --target $(VENV)/openai2 'openai>=2.20,<3'
	@touch $@

lint: build $(VENV)/.lint ## Check style and layering: rustfmt, clippy, ruff, import-linter
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --quiet -- -D warnings
	$(BIN)/ruff format --quiet --check
	$(BIN)/ruff check --quiet
	$(BIN)/lint-imports --no-cache | tail -n 4

fmt: $(VENV)/.lint ## Format everything
	cargo fmt --all
	$(BIN)/ruff format --quiet
	$(BIN)/ruff check --quiet --fix --exit-zero

typecheck: build $(VENV)/.lint ## Check types: mypy, pyright, and the stub against the binary
	$(BIN)/mypy
	$(BIN)/pyright
	$(BIN)/python -m mypy.stubtest tollway._core

loom: ## Explore every interleaving of the lock-free code
	RUSTFLAGS="--cfg loom" cargo test --quiet -p tollway-core --release --test loom --target-dir target/loom

bench: build $(VENV)/.bench ## Run every benchmark (see benches/README.md)
	cargo bench --quiet -p tollway-core
	$(BIN)/python -m pytest -q benches/python --benchmark-group-by=group --benchmark-columns=median,iqr,rounds

bench-tokens: build $(VENV)/.bench ## Compare token counting with its peers: about five minutes
	for part in tokens tokens_cold tokens_hard tokens_threads; do $(BIN)/python benches/python/bench_$$part.py || exit 1; done

wheel: $(VENV)/.python ## Build a wheel into dist/
	$(BIN)/maturin build --release --out dist

ci: test lint typecheck loom ## What continuous integration runs

clean: ## Remove everything that was built
	rm -rf $(VENV) target out dist
