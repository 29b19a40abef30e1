# Every chore of the project, by name. CI runs the same targets.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help setup demo test test-faults test-containers beside-an-engine lab lint types contracts docs bench bench-stream bench-telemetry bench-cancel \
  bench-runs bench-nodes requirements golden clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: $(VENV)/.ready ## make the project's own environment (once)

# The exact versions with their hashes, then the project itself; made anew only when either file changes.
$(VENV)/.ready: requirements.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

demo: setup ## one real task, live, on the embedded stack
	$(BIN)/taskrunner demo

test: setup ## lint, types, import contracts, migrations, all tests
	$(MAKE) --no-print-directory lint types contracts
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

# What has a limit in seconds that a busy machine would break.
ALONE := tests/workflows/test_reconcile_scale.py
test-faults: setup ## the fault suite: every failpoint, every named fault, one seed of the race lab
	$(BIN)/python -m pytest -m campaign -n 4 tests/faults/test_failpoints.py
	$(BIN)/python -m pytest -m campaign -n 3 --dist loadfile --ignore tests/faults/test_failpoints.py --ignore $(ALONE)
	$(BIN)/python -m pytest -m campaign $(ALONE)
	$(BIN)/python -m tests.faults.lab --seed 1

test-containers: setup ## what needs a container engine; on Debian root gets one that is installed and started for it
	$(BIN)/python -m tests.containers.engine $(MAKE) --no-print-directory beside-an-engine

beside-an-engine:
	$(BIN)/python -m pytest -m containers
	TASKRUNNER_TEST_POSTGRES=taskrunner-test/postgres:18 $(BIN)/python -m pytest tests/store tests/api

SEEDS ?= 1 2 3 4 5 6 7 8 9 10
lab: setup ## the race lab, seed by seed (SEEDS="1 2 3"), then what was struck too seldom; see benchmarks/results/faults.json
	for seed in $(SEEDS); do $(BIN)/python -m tests.faults.lab --seed $$seed; done
	$(BIN)/python -m tests.faults.lab --drill

lint: setup ## style
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: setup ## mypy, strict, over source and tests
	$(BIN)/mypy

contracts: setup ## which floor may import which
	$(BIN)/lint-imports

bench: setup ## whole tasks through the API, beside the floor, in one run
	$(BIN)/python -m benchmarks.bench

bench-stream: setup ## from commit to a watcher's socket, 500 watchers; a long backlog
	$(BIN)/python -m benchmarks.stream

bench-telemetry: setup ## what metrics and traces cost a task
	$(BIN)/python -m benchmarks.telemetry

bench-cancel: setup ## 200 cancels at random moments, until nothing is left of the task
	$(BIN)/python -m benchmarks.cancels

bench-runs: setup ## a run beside its tasks alone; from a dependency's end to the next member; a run of 2,000
	$(BIN)/python -m benchmarks.runs

bench-nodes: setup ## from a released slot to the next task; from dispatch to a workspace that is ready
	$(BIN)/python -m benchmarks.nodes

requirements: ## compile the exact versions with hashes, for every platform
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links \
	  --custom-compile-command "make requirements" pyproject.toml \
	  --extra embedded --extra docker --extra otlp --group dev -o requirements.txt

docs: setup ## write the pages that are made from the code
	$(BIN)/python -m docs.generate

golden: setup ## record the golden histories anew, after a change that breaks replay
	$(BIN)/python -m pytest -q tests/workflows/record.py tests/workflows/record_runs.py

clean: ## remove what the targets made
	rm -rf $(VENV) .taskrunner build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
