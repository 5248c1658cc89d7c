# Everything a contributor needs. Each target makes its own virtual environment in .venv.

PYTHON ?= $(shell for python in python3.13 python3.12 python3.11 python3; do \
	$$python -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; \
	done)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
SEED_MINUTES ?= 60
HISTORY_MINUTES ?= 30

CHAOS_DURATION ?= 8s

# Containers often set it. Every process that a test starts would compile all its modules anew: most of what a node's start costs.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo test lint format bench soak chaos clean

help:
	@echo "make demo    a three-node cluster loses its leaders' process and nothing else"
	@echo "make test    every check and every test"
	@echo "make bench   Shoal beside etcd and Redis, a thousand idle groups, failovers, operations under load, what attackers do to others, what metrics and gRPC cost"
	@echo "make chaos   every chaos scenario for CHAOS_DURATION (8s), ten minutes in all, and a page about them in chaos-runs/"
	@echo "make soak    many fixed seeds, and how many find each planted bug; new seeds for SEED_MINUTES (60), then workloads under faults for HISTORY_MINUTES (30)"

$(READY): pyproject.toml
	@test -n "$(PYTHON)" || { echo "Shoal needs Python 3.11 or newer with venv and ensurepip (Debian: python3-venv)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	@touch $@

demo: $(READY)
	$(BIN)/python -m shoal_chaos.demo

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/generate_blocking.py --check
	$(BIN)/python tools/generate_protos.py --check
	$(BIN)/python bench/page.py --check

test: lint
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)
	$(BIN)/python bench/compare.py
	$(BIN)/python bench/idle_groups.py
	$(BIN)/python bench/failover.py
	$(BIN)/python bench/operations.py
	$(BIN)/python bench/isolation.py
	$(BIN)/python bench/overload.py
	$(BIN)/python bench/metrics_cost.py
	$(BIN)/python bench/grpc_stream.py

soak: $(READY)
	$(BIN)/python -m pytest tests/simulation -m soak -rP --numprocesses 2
	$(BIN)/python -m shoal_chaos.simulation --mix each --minutes $(SEED_MINUTES)
	$(BIN)/python -m shoal_chaos.control_simulation --minutes $(SEED_MINUTES)
	$(BIN)/python -m shoal_chaos.workloads --minutes $(HISTORY_MINUTES)
	$(BIN)/python -m shoal_chaos.workloads --operations --minutes $(HISTORY_MINUTES)

chaos: $(READY)
	$(BIN)/shoal chaos run all --duration $(CHAOS_DURATION); code=$$?; $(BIN)/shoal chaos report && exit $$code

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
