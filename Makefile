# What to run while working on KafScale. `make` alone lists the targets.

TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
ANALYTICS_DIR := $(if $(CARGO_TARGET_DIR),$(CARGO_TARGET_DIR)/analytics,crates/analytics/target)
# Tools that the build installs for itself; never system-wide.
TOOLS_DIR ?= $(HOME)/.cache/kafscale/tools
FUZZ_SECONDS ?= 60
PREFIX ?= /usr/local
SEEDS ?= 100
KINDS ?= all
FIRST_SEED ?= 1

.DEFAULT_GOAL := help
.PHONY: help demo demo-sql demo-perimeter analytics analytics-test demo-platform demo-platform-perimeter demo-platform-down demo-platform-clean build check test faults install package sim sim-mutants perimeter-mutants perimeter-kinds bench bench-quick bench-sql bench-micro bench-build deny fuzz fmt clean

FAULT_MINUTES ?= 10

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 26

demo: build ## build and run a broker with sample data on 127.0.0.1:9092
	@exec $(TARGET_DIR)/release/kafscale demo

demo-sql: build analytics ## the demo with SQL beside it, for psql on 127.0.0.1:5432
	@exec deploy/demo-sql $(TARGET_DIR)/release/kafscale

demo-perimeter: build analytics ## a made-up hospital behind the perimeter: ten questions of agents, then an MCP server on 127.0.0.1:8091
	@exec examples/perimeter/run $(TARGET_DIR)/release/kafscale $(DEMO_ARGS)

# A workspace and a target directory of its own: docs/adr/0023.
analytics: ## build the program that answers SQL; `kafscale sql` starts it
	@test -e $(ANALYTICS_DIR)/release/kafscale-analytics || echo "Building the query engine, which takes about 25 minutes on two cores the first time."
	cargo build --release --locked --manifest-path crates/analytics/Cargo.toml --target-dir $(ANALYTICS_DIR) --workspace
	@mkdir -p $(TARGET_DIR)/release
	@ln -f $(ANALYTICS_DIR)/release/kafscale-analytics $(TARGET_DIR)/release/kafscale-analytics

# With the engine as it was built above, and our own crates unoptimised and with checks, as unit tests have them elsewhere.
UNOPTIMISED = $(foreach crate,meter sql perimeter,$(foreach setting,opt-level=0 debug-assertions=true overflow-checks=true codegen-units=64,--config profile.release.package.kafscale-$(crate).$(setting)))

analytics-test: ## the unit tests of the program that answers SQL
	cargo test --release --locked --manifest-path crates/analytics/Cargo.toml --target-dir $(ANALYTICS_DIR) --workspace --lib --no-fail-fast $(UNOPTIMISED)

demo-platform: ## build and run the platform in containers: MinIO, etcd, the broker, the MCP server, sample data
	@deploy/demo-platform up

demo-platform-perimeter: ## the platform, and the hospital of demo-perimeter on PostgreSQL, Redis, MongoDB and MinIO; MCP on 127.0.0.1:8091
	@deploy/demo-platform perimeter

demo-platform-down: ## stop the platform; its data stays
	@deploy/demo-platform down

demo-platform-clean: ## stop the platform and remove its data
	@deploy/demo-platform clean

build: ## build the optimised binary
	cargo build --release --locked -p kafscale

install: build ## install the optimised binary as PREFIX/bin/kafscale (PREFIX=/usr/local)
	install -D -m 755 $(TARGET_DIR)/release/kafscale $(DESTDIR)$(PREFIX)/bin/kafscale

package: build ## make a .deb with a systemd unit and a .tar.gz, in target/package
	deploy/package/build $(TARGET_DIR)/release/kafscale $(TARGET_DIR)/package

check: ## the inner loop: formatting, lints, unit tests
	cargo fmt --all -- --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	cargo test --locked --workspace --quiet

test: ## everything: install what tests need, unit tests, client matrix, faults, scale
	@.ci/test

faults: build ## hurt a cluster of three brokers for FAULT_MINUTES minutes under load, and check every record
	@tests/setup
	@KAFSCALE_BIN=$(abspath $(TARGET_DIR))/release/kafscale FAULT_MINUTES=$(FAULT_MINUTES) tests/cluster/faults

sim: ## simulate clusters with faults, with SEEDS seeds from FIRST_SEED on; prints how to run a failing one alone
	cargo build --locked --quiet -p kafscale-sim
	$(TARGET_DIR)/debug/kafscale-sim many $(FIRST_SEED) $(SEEDS)

sim-mutants: ## break the code in known ways, and see that the simulation notices each
	sim/mutants/run

perimeter-mutants: build ## switch off the perimeter's defences, one at a time, and see that its tests notice each
	@KAFSCALE_BIN=$(abspath $(TARGET_DIR))/release/kafscale tests/perimeter/mutants/run --units

perimeter-kinds: build analytics ## attack the perimeter with its hospital in each kind of collection that KINDS names (all of them), on real servers
	@tests/setup sql
	@tests/setup perimeter
	@KAFSCALE_BIN=$(abspath $(TARGET_DIR))/release/kafscale KAFSCALE_ANALYTICS_BIN=$(abspath $(TARGET_DIR))/release/kafscale-analytics tests/perimeter/run --kind $(KINDS)

bench: bench-build ## measure KafScale, rivals and the hardware for about an hour; prints the table, writes docs/benchmarks.md
	@bench/setup
	@$(BENCH) --docs $(BENCH_ARGS)

bench-quick: bench-build ## measure KafScale and the hardware, in under two minutes once it is built
	@$(BENCH) --quick $(BENCH_ARGS)

bench-sql: build analytics ## measure SQL over topics beside DuckDB, and write its section of docs/benchmarks.md
	@tests/setup sql
	@KAFSCALE_BIN=$(abspath $(TARGET_DIR))/release/kafscale KAFSCALE_ANALYTICS_BIN=$(abspath $(TARGET_DIR))/release/kafscale-analytics bench/sql --docs $(BENCH_ARGS)

bench-micro: ## time the hot functions one by one, with what they allocate
	cargo bench --locked -p kafscale-core --bench batches
	cargo bench --locked -p kafscale-storage --bench segments

BENCH = KAFSCALE_BIN=$(abspath $(TARGET_DIR))/release/kafscale KAFSCALE_BENCH_BIN=$(abspath $(TARGET_DIR))/release/kafscale-bench bench/run

bench-build: build
	@cargo build --release --locked -p kafscale-bench

deny: $(TOOLS_DIR)/bin/cargo-deny ## licences, sources and banned crates of the dependencies
	$(TOOLS_DIR)/bin/cargo-deny --locked check bans licenses sources
	cd crates/analytics && $(TOOLS_DIR)/bin/cargo-deny --locked check bans licenses sources

$(TOOLS_DIR)/bin/cargo-deny:
	cargo install cargo-deny --locked --debug --root $(TOOLS_DIR)

fuzz: ## run every fuzz target for FUZZ_SECONDS seconds each; needs a nightly toolchain
	@command -v cargo-fuzz >/dev/null || cargo install cargo-fuzz --locked
	cd fuzz && cargo run --quiet --example seeds
	cd fuzz && for target in $(notdir $(basename $(wildcard fuzz/fuzz_targets/*.rs))); do \
	    cargo +nightly fuzz run $$target -- -max_total_time=$(FUZZ_SECONDS) -rss_limit_mb=2048 || exit 1; \
	done

fmt: ## format the code
	cargo fmt --all

clean: ## remove build results; keeps the demo's data
	cargo clean
