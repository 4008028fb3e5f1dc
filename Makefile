# One verb each; every target sets up what it needs in .venv.
# `make demo` and `make test` work in a fresh clone, and from anywhere with `make -C`.

.DEFAULT_GOAL := help
.PHONY: help demo test lint check bench matrix torture fuzz clean
.DELETE_ON_ERROR:

BIN := .venv/bin
READY := .venv/.ready

# The first Python of 3.11 or later; PYTHON=… overrides.
PYTHON ?= $(shell for name in python3.11 python3 python3.12 python3.13 python; do \
	"$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$name" && break; done)

help:
	@echo "make demo     inspect, convert and verify an adapter made for it"
	@echo "make test     all tests"
	@echo "make lint     formatting, lint, types"
	@echo "make check    lint and test"
	@echo "make bench    measure against what people use today"
	@echo "make matrix   try every layout in every other, and write docs/layouts.md"
	@echo "make torture  kill writers hundreds of times"
	@echo "make fuzz     feed mutated files to the readers"
	@echo "make clean    remove .venv and caches"

$(READY): pyproject.toml constraints.txt
	@if [ -z "$(PYTHON)" ]; then \
		echo "error: no Python of 3.11 or later found"; \
		echo "hint: install one, or name it: make PYTHON=/path/to/python3.12 …"; exit 1; fi
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "error: $(PYTHON) has no venv module"; \
		echo "hint: install it (Debian, Ubuntu: apt install python3-venv)"; exit 1; }
	"$(PYTHON)" -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@$(BIN)/python -m compileall -q ckptfix # an editable install does not compile, and starting would pay for it
	@touch $@

demo: $(READY)
	@$(BIN)/ckptfix demo

test: $(READY)
	$(BIN)/python -m pytest -n auto --dist worksteal

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

check: lint test

bench: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt matplotlib
	@set -e; for file in benchmarks/*.py; do echo "$$file"; $(BIN)/python "$$file"; done

matrix: $(READY)
	$(BIN)/python -m tests.matrix

torture: $(READY)
	$(BIN)/python -m pytest torture
	$(BIN)/python -m tests.torture

fuzz: $(READY)
	$(BIN)/python -m tests.fuzzing

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist *.egg-info
	find ckptfix tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
