# Two commands for a newcomer: `make demo` and `make test`. Both make a virtual environment first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test quick lint bench clean

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

demo: $(VENV)/.installed  ## train on scikit-learn's digits, draw every figure, print where they are
	$(BIN)/losspath demo

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint  ## everything
	$(BIN)/python -m pytest

quick: lint  ## all but the tests marked slow
	$(BIN)/python -m pytest -m "not slow"

bench: $(VENV)/.installed  ## every benchmark, into benchmarks/results (about an hour); DATA=DIR of MNIST
	$(BIN)/python benchmarks/all.py $(if $(DATA),--data-dir $(DATA))

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
