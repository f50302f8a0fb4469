# Every developer task, one line of help each; CI runs the same targets.
SHELL := bash
STAGE := ./scripts/stage
# Warnings are errors in the checks, not in the flags of the compiler: those would make every stage build everything anew.
export CARGO_TERM_COLOR ?= auto

FUZZ_SECONDS ?= 60

# Every target with a line of help is a task, none a file.
.PHONY: $(shell awk -F: '/^[a-z0-9-]+:.*\#\# / { print $$1 }' $(MAKEFILE_LIST))

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

local: ## Start a leader and five followers on this machine
	cargo run --release -- local

test: ## Everything: format, lints, docs, unit tests, the model, the simulator, real processes, the page, the chart, the operator, a real Kubernetes
	@$(STAGE) setup ./scripts/setup
	@$(STAGE) format $(MAKE) --no-print-directory format-check
	@$(STAGE) lint $(MAKE) --no-print-directory lint
	@$(STAGE) doc $(MAKE) --no-print-directory doc
	@$(STAGE) unit $(MAKE) --no-print-directory unit
	@$(STAGE) model $(MAKE) --no-print-directory model
	@$(STAGE) bugs $(MAKE) --no-print-directory bugs
	@$(STAGE) sim $(MAKE) --no-print-directory sim
	@$(STAGE) e2e $(MAKE) --no-print-directory e2e
	@$(STAGE) web $(MAKE) --no-print-directory web
	@$(STAGE) observe $(MAKE) --no-print-directory observe
	@$(STAGE) chart $(MAKE) --no-print-directory chart
	@$(STAGE) operator $(MAKE) --no-print-directory operator
	@$(STAGE) faults $(MAKE) --no-print-directory faults
	@$(STAGE) traces $(MAKE) --no-print-directory traces
	@$(STAGE) kubernetes ./scripts/kubernetes/test cluster --if-possible

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
	cargo test --workspace --exclude quorate-tests --exclude quorate-model --exclude quorate-operator --exclude quorate-kubernetes
	cargo test -p quorate-operator --lib --bins --test crd --test objects

model: ## Visit every state of the protocol's rules within small bounds; about a minute
	cargo test -p quorate-model -- --nocapture --test-threads=1

model-large: ## The same within larger bounds: many minutes, gigabytes of memory
	QUORATE_MODEL=large cargo test -p quorate-model --test rules -- --nocapture --test-threads=1

e2e: ## Clusters of real processes over real sockets
	cargo build --bin quorate
	cargo test -p quorate-tests --lib --bins --test e2e -- --test-threads=4

web: ## The page in a real Chromium: every control, failovers, keyboard, accessibility; screenshots in target/screenshots
	cargo build --bin quorate
	cd tests/web && npm ci --ignore-scripts --no-audit --no-fund --silent && npm test

observe: ## Metrics, dashboards and alerts through a real Prometheus
	cargo build --bin quorate
	./scripts/kubernetes/lint-dashboards
	cargo test -p quorate-tests --test observe -- --test-threads=2 --nocapture

# A build of its own, of a feature that is off by default; so it comes last, and the program is built as always again for whatever comes next.
traces: ## Traces of writes (the feature `otel`) to a receiver that speaks OTLP
	cargo clippy -p quorate --all-targets --features otel --quiet -- -D warnings
	cargo test -p quorate --features otel --lib traces::
	cargo build --bin quorate --features otel
	cargo test -p quorate-tests --test traces; code=$$?; cargo build --quiet --bin quorate; exit $$code

pictures: ## The pictures in docs/images: the page and the dashboards, of clusters under load and of the operator, and a sweep's latencies; some minutes
	cargo build --release --bin quorate
	cd tests/web && npm ci --ignore-scripts --no-audit --no-fund --silent && QUORATE_BIN=../../target/release/quorate node picture.js
	mkdir -p docs/images
	cp target/screenshots/readme.png docs/images/page.png
	cargo run --quiet --release -p quorate-tests --bin dashboards -- pictures
	$(MAKE) --no-print-directory operator LIVE=seen::
	cp target/screenshots/dashboard-operator.png docs/images/
	sweep=$$(mktemp -d); trap "rm -rf $$sweep" EXIT; ./target/release/quorate sweep --out $$sweep && \
	  cp $$sweep/latency.png docs/images/sweep-latency.png && cp $$sweep/convergence.png docs/images/sweep-convergence.png

operator: ## The operator with a real API server and real nodes, the kubelet alone being played
	cargo build --bin quorate
	run=$$(mktemp -d); trap "scripts/kubernetes/apiserver-down $$run; rm -rf $$run" EXIT; \
	  KUBECONFIG=$$(scripts/kubernetes/apiserver-up --controllers $$run) cargo test -p quorate-operator --test live -- --test-threads=3 $(LIVE)

# Four clusters at a time: more of them on two cores would measure the machine. QUORATE_SEED repeats the choices of a run that failed.
faults: ## Clusters of real processes killed, paused, cut off, with failing disks; what clients saw is judged
	cargo build --bin quorate
	cargo test -p quorate-tests --test faults -- --test-threads=4 --nocapture

# One at a time, optimized: what is measured (failovers) is then the product, not the neighbour.
nightly: ## The long versions of the tests under faults (some 1,300 faults, 60 failovers), porcupine, Kubernetes with the programs as they are shipped; hours
	./scripts/setup
	cargo build --release --bin quorate
	$(MAKE) --no-print-directory sim SEEDS=30000
	$(MAKE) --no-print-directory sim-table SEEDS=300
	QUORATE_NIGHTLY=1 cargo test --release -p quorate-tests --test faults -- --test-threads=1 --nocapture
	$(MAKE) --no-print-directory porcupine
	PROFILE=release ./scripts/kubernetes/test cluster --if-possible

porcupine: ## Compare the checker of histories with porcupine, on many generated and on recorded histories; nightly
	cargo build --bin quorate
	cargo test -p quorate-tests --test e2e history::
	QUORATE_PORCUPINE_HISTORIES=3000 cargo test -p quorate-history --test porcupine -- --nocapture

bugs: ## Is every deliberate bug of protocol and storage found? (docs/deliberate-bugs.md)
	cargo test -p quorum --features bugs --test bugs --lib
	cargo test -p quorate-sim --features bugs --test bugs
	cargo test -p quorate --features bugs --lib is_noticed

check: ## Is everything here that is needed, and are the ports free?
	./scripts/setup
	cargo run --quiet -p quorate-tests --bin check

quick: ## Start a cluster, write and read through every face, clean up; in under two minutes
	cargo build --bin quorate
	cargo run --quiet -p quorate-tests --bin quick

basic: ## Ten writes, read from all six nodes, compared; with detailed output
	cargo build --bin quorate
	cargo run --quiet -p quorate-tests --bin basic

perf: ## Every write quorum in turn, with nodes down too: tables and plots in quorate-sweep/
	cargo run --quiet --release -- sweep

large: ## A million keys, more data than memory: what the node holds, cold reads, restarts; a few minutes
	cargo build --release --bin quorate
	cargo run --quiet --release -p quorate-tests --bin large

bench: ## Side by side with etcd and Redis; about a quarter of an hour
	cargo build --release --bin quorate
	cargo run --release -p quorate-bench -- compare

fuzz: ## Fuzz every parser of foreign bytes with coverage, FUZZ_SECONDS each (60); installs cargo-fuzz where it is missing
	command -v cargo-fuzz > /dev/null || cargo install --locked cargo-fuzz
	cd fuzz && cargo fuzz build --fuzz-dir . --sanitizer none && for target in fuzz_targets/*.rs; do \
	  cargo fuzz run --fuzz-dir . --sanitizer none $$(basename $$target .rs) -- -max_total_time=$(FUZZ_SECONDS) -timeout=60 || exit 1; done

# Fresh seeds every time; QUORATE_SEED repeats those of a run that failed.
sim: ## Simulated clusters under faults: SEEDS=1000 fresh ones, or the whole trace of one with SEED=7
	cargo build -p quorate-sim
	@$(if $(SEED),./target/debug/sim trace $(SEED),./target/debug/sim run --seeds $(or $(SEEDS),1000))

sim-table: ## The same for each legal pair of N and W up to N = 7, with every kind of fault; SEEDS=10 runs each
	cargo build -p quorate-sim
	@./target/debug/sim table --seeds $(or $(SEEDS),10)

apiserver-up: ## Start etcd and the API server of Kubernetes on loopback; print the path of the kubeconfig
	@./scripts/kubernetes/apiserver-up

apiserver-down: ## End them
	@./scripts/kubernetes/apiserver-down

kind-up: ## Start a Kubernetes for the tests (kind: three workers in three zones); print the path of the kubeconfig
	@./scripts/kubernetes/kind-up

kind-load: images ## Build the images and hand them to the nodes of kind
	@./scripts/kubernetes/load

kind-down: ## End it
	@./scripts/kubernetes/kind-down

images: ## Build quorate and quorate-operator into images of static programs, as archives in target/images; no daemon needed
	@./scripts/kubernetes/images

chart: ## Test the chart: golden files, schema, helm lint, kubeconform with the API server's own schemas
	@./scripts/kubernetes/test chart

# FILTER=name for some of them; KEEP=1 leaves the namespaces of those that failed.
kubernetes: ## The chart, the operator and clusters of pods, on kind or on the cluster that KUBECONFIG names
	@./scripts/kubernetes/test cluster

clean: ## Remove what was built (data directories stay)
	cargo clean
