# All commands of the project. `make setup` once, `make check` before a commit, `make test` for
# everything. Nothing here needs more than make, bash and Python 3.11.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3
export PYTHON

# What a default locale would break: Debian's containers have none.
export PYTHONUTF8 := 1
# Nothing here may phone home.
export DO_NOT_TRACK := 1
export RAY_USAGE_STATS_ENABLED := 0
export PREFECT_SERVER_ANALYTICS_ENABLED := false

PACKAGES := modelium flows agents runtimes
UNIT_TESTS := tests/modelium tests/agents tests/flows tests/runtimes
# Environments of real servers: one for each lock that is not Modelium's own.
ENVIRONMENTS := $(sort $(filter-out dev modelium litellm,$(basename $(notdir $(wildcard requirements/*.lock)))))
WORKERS ?= 2

.PHONY: help setup check test lock lock-% demo demo-runtimes bench bench-gateway fuzz conformance docs environments clean

help: ## show this
	@grep -hE '^[a-z%-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: ## make .venv from requirements/dev.lock (instant when it is up to date)
	@tools/setup.sh

check: setup ## lint, format, types, import rules, unit tests (under two minutes)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python -m pytest $(UNIT_TESTS) -m "not real and not conformance" -n $(WORKERS)

environments: ## make the environments of the real servers that tests start (gigabytes, once)
	@for name in $(ENVIRONMENTS); do tools/env.sh "$$name"; done

# A start of vLLM takes a minute, so there are three at most; `make conformance` has the others.
test: setup environments ## the whole suite but the conformance matrix, real servers included
	@tools/apt.sh chromium prometheus
	$(BIN)/python -m pytest -m "not conformance" --ignore tests/runtimes/conformance \
		-n $(WORKERS) --dist loadgroup $(ARGS)

conformance: setup environments ## every runtime driver against every case, as a table
	$(BIN)/python -m pytest tests/runtimes/conformance $(ARGS)

demo: setup ## the whole life of a model on this machine; CI=1 runs it without a person
	$(BIN)/python -m modelium.cli.demo $(if $(CI),--ci) $(ARGS)

demo-runtimes: setup ## one real model per runtime (vLLM, Triton, Ray Serve), dropped together
	@for name in vllm triton replica; do tools/env.sh "$$name"; done
	$(BIN)/python -m tests.demo_runtimes $(if $(CI),--ci) $(ARGS)

bench: setup ## the benchmarks but the gateway's, or BENCH=name for one of bench/
	@for file in $(if $(BENCH),bench/$(BENCH).py,$(filter-out bench/__init__.py bench/gateway.py,$(wildcard bench/*.py))); do \
		echo "== $$file"; \
		$(BIN)/python -m "bench.$$(basename "$$file" .py)" $(ARGS); \
	done

bench-gateway: setup ## the gateway beside nginx and the LiteLLM proxy, in one run
	@tools/apt.sh nginx wrk
	@tools/env.sh litellm
	$(BIN)/python -m bench.gateway $(ARGS)

fuzz: setup ## fuzz what reads dropped files (ARGS go to the fuzzer); random property tests
	$(BIN)/python -m tests.fuzz $(ARGS)
	HYPOTHESIS_PROFILE=fuzz $(BIN)/python -m pytest $(UNIT_TESTS) tests/fuzz -m "hypothesis and not real" \
		--timeout 0 -n $(WORKERS)

docs: setup ## write the pages that are made from the code
	$(BIN)/modelium config docs > $(VENV)/configuration.md
	mv $(VENV)/configuration.md docs/configuration.md
	$(BIN)/modelium config schema > $(VENV)/config.schema.json
	mv $(VENV)/config.schema.json docs/config.schema.json

lock: setup ## resolve the locks anew; UPGRADE=--upgrade takes newer releases
	$(BIN)/uv pip compile -q pyproject.toml --python-version 3.11 --no-annotate --no-header \
		$(UPGRADE) -o requirements/modelium.lock
	$(BIN)/uv pip compile -q pyproject.toml --group dev --python-version 3.11 --no-annotate \
		--no-header -c requirements/modelium.lock $(UPGRADE) -o requirements/dev.lock

lock-%: ## resolve requirements/%.in anew into its lock, e.g. lock-replica
	tools/env.sh --lock $*

clean: ## remove what was made in this checkout (the shared environments stay)
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find $(PACKAGES) tests bench -name __pycache__ -type d -prune -exec rm -rf {} +
