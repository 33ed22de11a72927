# `make quickstart` and `make test` need Linux, Python 3.11 and make, nothing else: each sets up .venv by itself, once.
BIN := .venv/bin
PYTHON := $(BIN)/python

.NOTPARALLEL:
.PHONY: quickstart test check bench lint format types setup

quickstart: setup  ## train from the bundled checkpoint and evaluate before and after
	@$(BIN)/unigrpo quickstart

test: check  ## everything: lint, types, all tests; the slow ones have the machine to themselves
	@$(PYTHON) -m pytest -m slow --durations 15

check: lint types  ## a developer's usual run: all but the slow tests, on two cores
	@$(PYTHON) -m pytest -m "not slow" --numprocesses 2 --dist loadfile

bench: setup  ## the speed ratios of the README, measured in one run
	@$(PYTHON) benchmarks/run.py

lint: setup
	@$(PYTHON) -m ruff check .
	@$(PYTHON) -m ruff format --check .

types: setup
	@$(PYTHON) -m mypy

format: setup  ## apply what lint would complain of
	@$(PYTHON) -m ruff check --fix .
	@$(PYTHON) -m ruff format .

setup:  ## .venv with the pinned packages of requirements/cpu.lock
	@sh scripts/setup_cpu.sh
