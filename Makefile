# The project's commands: `make check` before a commit, `make test` for everything. They need
# make, bash and Python 3.11, and install the rest themselves.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3
export PYTHON

# Containers often have no locale set, and Python would then read files as ASCII.
export PYTHONUTF8 := 1
# Disable telemetry.
export DO_NOT_TRACK := 1
export RAY_USAGE_STATS_ENABLED := 0
export PREFECT_SERVER_ANALYTICS_ENABLED := false

PACKAGES := modelium flows agents runtimes
UNIT_TESTS := tests/modelium tests/agents tests/flows tests/runtimes tests/tools tests/invariants tests/faults
# Environments of real servers: one per lock file, except Modelium's own.
ENVIRONMENTS := $(sort $(filter-out dev modelium litellm cuda,$(basename $(notdir $(wildcard requirements/*.lock)))))
WORKERS ?= 2
PIP_AUDIT := 2.10.1

.PHONY: help setup lint check test lock lock-% demo demo-runtimes bench bench-gateway fuzz faults chaos soak machines conformance mutants docs environments audit sbom clean

help: ## show this list
	@grep -hE '^[a-z%-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: ## create .venv from requirements/dev.lock (instant if it is up to date)
	@tools/setup.sh

lint: setup ## ruff, formatting, mypy, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

check: lint ## lint and the quick unit tests (under two minutes)
	$(BIN)/python -m pytest $(UNIT_TESTS) -m "not real and not conformance and not slow" \
		-n $(WORKERS) $(ARGS)

environments: ## create the environments of the real servers that tests start (gigabytes, once)
	@for name in $(ENVIRONMENTS); do tools/env.sh "$$name"; done

# vLLM takes a minute to start, so these tests start it three times at most; `make conformance`
# covers the rest.
test: lint environments ## lint and all tests except conformance, real servers included
	@tools/apt.sh prometheus systemd postgresql pgbouncer iproute2
	$(BIN)/python -m pytest -m "not conformance" --ignore tests/runtimes/conformance \
		-n $(WORKERS) --dist loadgroup $(ARGS)

conformance: setup environments ## every runtime driver against every case, and the LLM's loop against every server
	$(BIN)/python -m pytest tests/runtimes/conformance $(ARGS)
	$(BIN)/python -m pytest tests/agents/llm/test_tool_loop_real.py -n 1 --dist loadgroup

demo: setup ## the whole life of a model on this machine; CI=1 ends it by itself
	$(BIN)/python -m modelium.cli.demo $(if $(CI),--ci) $(ARGS)

demo-runtimes: setup ## a real model each on vLLM, Triton and Ray Serve, dropped together
	@for name in vllm triton replica; do tools/env.sh "$$name"; done
	$(BIN)/python -m tests.demo_runtimes $(if $(CI),--ci) $(ARGS)

BENCHES := planner loop replay drops drivers estimator inspection brain_eval machines

bench: setup ## all benchmarks except the gateway's, or BENCH=name for one of bench/
	@$(if $(filter machines,$(or $(BENCH),$(BENCHES))),tools/apt.sh postgresql)
	@for file in $(if $(BENCH),bench/$(BENCH).py,$(BENCHES:%=bench/%.py)); do \
		echo "== $$file"; \
		$(BIN)/python -m "bench.$$(basename "$$file" .py)" $(ARGS); \
	done

bench-gateway: setup ## compare the gateway with nginx and the LiteLLM proxy in one run
	@tools/apt.sh nginx wrk
	@tools/env.sh litellm
	$(BIN)/python -m bench.gateway $(ARGS)

fuzz: setup ## fuzz what reads dropped files (ARGS go to the fuzzer); random property tests
	$(BIN)/python -m tests.fuzz $(ARGS)
	HYPOTHESIS_PROFILE=fuzz $(BIN)/python -m pytest $(UNIT_TESTS) tests/fuzz -m "hypothesis and not real" \
		--timeout 0 -n $(WORKERS)

mutants: setup ## change the code in small ways and see which the unit tests notice; e.g. ARGS="--seed 2 planner"
	$(BIN)/python -m tools.mutants --workers $(WORKERS) $(ARGS)

faults: setup ## every fault at every commit, file operation and driver call; prints a table
	$(BIN)/python -m tests.faults $(ARGS)

SEEDS ?= 5

chaos: setup ## faults of all kinds on a real service, SEEDS=n of each; prints a table
	$(BIN)/python -m tests.chaos --seeds $(SEEDS) $(ARGS)

MINUTES ?= 60

soak: setup ## traffic, drops and faults for MINUTES; memory, descriptors and sizes at the end
	$(BIN)/python -m tests.chaos.soak --minutes $(MINUTES) $(ARGS)

machines: setup ## three machines in network namespaces (root): kills, partitions, drains; prints a table
	@for name in llama triton; do tools/env.sh "$$name"; done
	@tools/apt.sh postgresql iproute2
	$(BIN)/python -m tests.machines $(ARGS)

docs: setup ## generate docs/configuration.md and docs/config.schema.json
	$(BIN)/modelium config docs > $(VENV)/configuration.md
	mv $(VENV)/configuration.md docs/configuration.md
	$(BIN)/modelium config schema > $(VENV)/config.schema.json
	mv $(VENV)/config.schema.json docs/config.schema.json

lock: setup ## resolve the lock files; UPGRADE=--upgrade takes newer releases
	$(BIN)/uv pip compile -q pyproject.toml --extra postgres --extra s3 --universal --python-version 3.11 --no-annotate \
		--no-header --generate-hashes $(UPGRADE) -o requirements/modelium.lock
	$(BIN)/uv pip compile -q pyproject.toml --extra postgres --extra s3 --group dev --universal --python-version 3.11 \
		--no-annotate --no-header --generate-hashes -c requirements/modelium.lock $(UPGRADE) -o requirements/dev.lock

lock-%: ## resolve requirements/%.in into its lock file, e.g. lock-replica
	tools/env.sh --lock $*

audit: setup ## look for known vulnerabilities in all lock files (asks OSV over the network)
	@for lock in requirements/*.lock; do \
		echo "== $$lock"; \
		$(BIN)/uv tool run --from pip-audit==$(PIP_AUDIT) pip-audit --vulnerability-service osv \
			--disable-pip --require-hashes -r "$$lock" $(ARGS); \
	done

sbom: setup ## write dist/modelium.cdx.json (CycloneDX), which wheels contain, too
	@mkdir -p dist
	$(BIN)/python tools/sbom.py > dist/modelium.cdx.json

clean: ## remove what was generated in this checkout (shared environments stay)
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find $(PACKAGES) tests bench -name __pycache__ -type d -prune -exec rm -rf {} +
