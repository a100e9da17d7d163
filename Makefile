# Two commands do all set-up: `make quickstart` and `make test`.
PYTHON ?= python3.11
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: quickstart test lint servers clean
.DEFAULT_GOAL := help
help:
	@echo "make quickstart     distil a real teacher into a student and judge it (under ten minutes)"
	@echo "make test           lint, types and all tests"
	@echo "make lint           ruff and mypy alone"
	@echo "make benchmark-NAME one benchmark of benchmarks/ (SEED=n, ARGS='...'); python -m benchmarks prints every goal"

$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "no $(PYTHON) here: give one with make PYTHON=/path/to/python3.11"; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[distill,scale,dev]'
	@touch $@

quickstart: $(STAMP)
	$(BIN)/python recipes/reviews/prepare.py
	$(BIN)/stillhouse distill recipes/reviews/recipe.yaml

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

servers:
	@sh tests/servers.sh

test: $(STAMP) servers lint
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal

benchmark-%: $(STAMP)
	$(BIN)/python -m benchmarks.$* $(if $(SEED),--seed $(SEED)) $(ARGS)

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
