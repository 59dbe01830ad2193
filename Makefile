# The commands a newcomer has to know. `make help` lists them.
KUMOD_CACHE ?= $(HOME)/.cache/kumod
export KUMOD_CACHE
# Shared between checkouts, so that dependencies are compiled once.
export CARGO_TARGET_DIR ?= $(KUMOD_CACHE)/target

.PHONY: help test

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST)

test: ## format check, lints as errors, every test; each part with its time
	@kumod/tools/test.sh
