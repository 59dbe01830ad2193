# The commands a newcomer has to know. `make help` lists them.
KUMOD_CACHE ?= $(HOME)/.cache/kumod
export KUMOD_CACHE
# Shared between checkouts, so that dependencies are compiled once.
export CARGO_TARGET_DIR ?= $(KUMOD_CACHE)/target

.PHONY: help demo test sim sim-planted crash power bench bench-peers bench-where bench-wedged

# RocksDB is compiled once and kept; every target that builds needs to know where.
with_rocksdb = ROCKSDB_LIB_DIR=$$(kumod/tools/setup.sh $(1)) && export ROCKSDB_LIB_DIR ROCKSDB_STATIC=1 &&

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST)

test: ## format check, lints as errors, every test; each part with its time
	@kumod/tools/test.sh

# In a target folder of its own, since the flag changes every crate; RUSTFLAGS in the environment would override it.
run_sim = env -u RUSTFLAGS cargo run --quiet --locked --profile sim -p kumo-scenarios --bin sim \
  --config "build.rustflags=['--cfg','madsim']" --target-dir "$$CARGO_TARGET_DIR-madsim" --

sim: ## what CI simulates: every scenario, 2,000 swarm seeds, all seeds that ever failed, and the canaries
	@$(run_sim) ci
	@$(run_sim) canary

sim-planted: ## applies each patch of scenarios/planted to a copy of the tree, and shows it caught (10 minutes)
	@scenarios/planted/catch.sh

demo: ## two kumods of this build: 2,000 messages from one to the other, and a table of what happened
	@$(call with_rocksdb,build) cargo build --release --locked -p kumod --bins --example demo && \
	  "$$CARGO_TARGET_DIR/release/examples/demo"

crash: ## kill -9 at 20 random moments under load, restart, drain, count with a ledger outside kumod (KUMOD_CRASHES=20)
	@$(call with_rocksdb,test) KUMOD_CRASHES=$${KUMOD_CRASHES:-20} \
	  cargo test --release --locked -p kumod --test crash -- --nocapture

power: ## the same with 20 power cuts for one database and for two: what wasn't synced is taken away (KUMOD_POWER_CUTS=20)
	@$(call with_rocksdb,test) KUMOD_POWER_CUTS=$${KUMOD_POWER_CUTS:-20} \
	  cargo test --release --locked -p kumod --test power -- --nocapture --test-threads 1

bench: ## the engine alone on one core, then 200,000 messages that can't leave: rates, memory, restart (root)
	@cargo bench --locked -p kumo-core --bench engine_lifecycle --bench source_selection
	@$(call with_rocksdb,bench) cargo build --release --locked -p kumod && kumod/tools/bench-backlog.sh

bench-where: ## where kumod's instructions go as a relay, counted by callgrind; the health gate's share (root)
	@$(call with_rocksdb,bench) cargo build --release --locked -p kumod && kumod/tools/bench-where.sh

bench-peers: ## kumod against Debian's Postfix as a relay on loopback (root; BENCH_RUNS=3 rounds, about 2 minutes each)
	@$(call with_rocksdb,bench) cargo build --release --locked -p kumod && kumod/tools/bench-peers.sh

bench-wedged: ## does a wedged dispatcher slow the mail of others? p50 and p99 without and with (root; about 12 minutes)
	@$(call with_rocksdb,bench) cargo build --release --locked -p kumod --bins && kumod/tools/bench-wedged.sh
