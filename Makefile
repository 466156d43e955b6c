# Two commands for a newcomer: `make demo` and `make test`. Both make a virtual environment first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test test-all lint bench clean

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

# One thread: tests are of tiny models, which many threads only slow down.
test: lint  ## all but the long campaigns
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow"

test-all: lint  ## the tests marked slow too: every line of recording, kills, damage, whole studies
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest

bench: $(VENV)/.installed  ## every benchmark, into benchmarks/results (about an hour); DATA=DIR of MNIST
	$(BIN)/python benchmarks/all.py $(if $(DATA),--data-dir $(DATA))

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
