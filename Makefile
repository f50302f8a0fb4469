# Every developer task, one line of help each; CI runs the same targets.
SHELL := bash
STAGE := ./scripts/stage
# Warnings are errors in the checks, not in the flags of the compiler: those would make every stage build everything anew.
export CARGO_TERM_COLOR ?= auto

FUZZ_SECONDS ?= 60

.PHONY: help local test setup fmt format-check lint doc unit model model-large e2e operator faults nightly porcupine check quick basic perf bench bugs fuzz sim clean

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
	@$(STAGE) bugs $(MAKE) --no-print-directory bugs
	@$(STAGE) e2e $(MAKE) --no-print-directory e2e
	@$(STAGE) faults $(MAKE) --no-print-directory faults

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

# The operator by itself: built together with the node it would get features of shared libraries that it cannot bear (operator/tests/objects.rs).
unit: ## Unit, golden and property tests
	cargo test --workspace --exclude quorate-tests --exclude quorate-model --exclude quorate-operator
	cargo test -p quorate-operator --lib --bins --test crd --test objects

model: ## Visit every state of the protocol's rules within small bounds; about a minute
	cargo test -p quorate-model -- --nocapture --test-threads=1

model-large: ## The same within larger bounds: many minutes, gigabytes of memory
	QUORATE_MODEL=large cargo test -p quorate-model --test rules -- --nocapture --test-threads=1

e2e: ## Clusters of real processes over real sockets
	cargo build --bin quorate
	cargo test -p quorate-tests --lib --bins --test e2e -- --test-threads=4

operator: ## The operator with a real API server and real nodes, the kubelet alone being played
	cargo build --bin quorate
	run=$$(mktemp -d); trap "scripts/kubernetes/apiserver-down $$run; rm -rf $$run" EXIT; \
	  KUBECONFIG=$$(scripts/kubernetes/apiserver-up --controllers $$run) cargo test -p quorate-operator --test live -- --test-threads=3

# Four clusters at a time: more of them on two cores would measure the machine. QUORATE_SEED repeats the choices of a run that failed.
faults: ## Clusters of real processes killed, paused, cut off, with failing disks; what clients saw is judged
	cargo build --bin quorate
	cargo test -p quorate-tests --test faults -- --test-threads=4 --nocapture

# One at a time, optimized: what is measured (failovers) is then the product, not the neighbour.
nightly: ## The long versions of the tests under faults (some 1,300 faults, 60 failovers), and porcupine; an hour or more
	./scripts/setup
	cargo build --release --bin quorate
	QUORATE_NIGHTLY=1 cargo test --release -p quorate-tests --test faults -- --test-threads=1 --nocapture
	$(MAKE) --no-print-directory porcupine

porcupine: ## Compare the checker of histories with porcupine, on many generated and on recorded histories; nightly
	cargo build --bin quorate
	cargo test -p quorate-tests --test e2e history::
	QUORATE_PORCUPINE_HISTORIES=3000 cargo test -p quorate-history --test porcupine -- --nocapture

bugs: ## Is every deliberate bug of the protocol found? (docs/deliberate-bugs.md)
	cargo test -p quorum --features bugs --test bugs --lib

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

fuzz: ## Fuzz every parser of foreign bytes, FUZZ_SECONDS each (60); needs cargo-fuzz and a nightly compiler
	cd fuzz && for target in fuzz_targets/*.rs; do name=$$(basename $$target .rs); \
	  [ $$name = seeds ] || cargo +nightly fuzz run --fuzz-dir . $$name -- -max_total_time=$(FUZZ_SECONDS) || exit 1; done

sim: ## Simulated clusters under faults: SEEDS=1000 of them, or the whole trace of one with SEED=7
	cargo build -p quorate-sim
	@$(if $(SEED),./target/debug/sim trace $(SEED),./target/debug/sim run --seeds $(or $(SEEDS),1000) --jobs 2)

clean: ## Remove what was built (data directories stay)
	cargo clean
