# The commands a newcomer has to know. `make help` lists them.
KUMOD_CACHE ?= $(HOME)/.cache/kumod
export KUMOD_CACHE
# Shared between checkouts, so that dependencies are compiled once.
export CARGO_TARGET_DIR ?= $(KUMOD_CACHE)/target

.PHONY: help test bench-peers

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST)

test: ## format check, lints as errors, every test; each part with its time
	@kumod/tools/test.sh

bench-peers: ## kumod against Debian's Postfix as a relay on loopback (root; BENCH_RUNS=3 rounds, about 2 minutes each)
	@kumod/tools/setup.sh bench >/dev/null
	@ROCKSDB_STATIC=1 ROCKSDB_LIB_DIR=$$(kumod/tools/setup.sh build) cargo build --release --locked -p kumod
	@kumod/tools/bench-peers.sh
