# Every developer task, one line of help each; CI runs the same targets.
SHELL := bash
STAGE := ./scripts/stage
# Warnings are errors in the checks, not in the flags of the compiler: those would make every stage build everything anew.
export CARGO_TERM_COLOR ?= auto

.PHONY: help local test setup fmt format-check lint doc unit model model-large e2e check quick basic perf bench clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

local: ## Start a leader and five followers on this machine
	cargo run --release -- local

test: ## Everything: format, lints, docs, unit and golden tests, the model, clusters of real processes
	@$(STAGE) setup ./scripts/setup
	@$(STAGE) format $(MAKE) --no-print-directory format-check
	@$(STAGE) lint $(MAKE) --no-print-directory lint
	@$(STAGE) doc $(MAKE) --no-print-directory doc
	@$(STAGE) unit $(MAKE) --no-print-directory unit
	@$(STAGE) model $(MAKE) --no-print-directory model
	@$(STAGE) e2e $(MAKE) --no-print-directory e2e

setup: ## Install what the tests need
	./scripts/setup

fmt: ## Format the code
	cargo fmt --all

format-check: ## Check the format
	cargo fmt --all --check

lint: ## Clippy, without a warning
	cargo clippy --workspace --all-targets --quiet -- -D warnings

doc: ## Rustdoc, without a warning
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --quiet

unit: ## Unit, golden and property tests
	cargo test --workspace --exclude quorate-tests --exclude quorate-model

model: ## Visit every state of the protocol's rules within small bounds; about a minute
	cargo test -p quorate-model -- --nocapture --test-threads=1

model-large: ## The same within larger bounds: many minutes, gigabytes of memory
	QUORATE_MODEL=large cargo test -p quorate-model --test rules -- --nocapture --test-threads=1

e2e: ## Clusters of real processes over real sockets
	cargo build --bin quorate
	cargo test -p quorate-tests -- --test-threads=4

check: ## Is everything here that is needed, and are the ports free?
	./scripts/setup
	cargo run --quiet -p quorate-tests --bin check

quick: ## Start a cluster, write and read through every face, clean up; in under two minutes
	cargo build --bin quorate
	cargo run --quiet -p quorate-tests --bin quick

basic: ## Ten writes, read from all six nodes, compared; with detailed output
	cargo build --bin quorate
	cargo run --quiet -p quorate-tests --bin basic

perf: ## Every write quorum in turn, 100 concurrent writes each: latency by quorum
	cargo build --release --bin quorate
	cargo run --quiet --release -p quorate-tests --bin perf

bench: ## Side by side with etcd and Redis; about a quarter of an hour
	cargo build --release --bin quorate
	cargo run --release -p quorate-bench -- compare

clean: ## Remove what was built (data directories stay)
	cargo clean
