# Two commands for a newcomer: `make demo` and `make test`. Both make a virtual environment first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test test-slow lint docs bench clean

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

# One thread and two processes: tests are of tiny models, which many threads only slow down.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist worksteal

test: lint  ## all but the long campaigns
	$(PYTEST) -m "not slow"

test-slow: $(VENV)/.installed  ## every line of recording, kills, damage, whole studies (half an hour)
	$(PYTEST) -m slow

docs: $(VENV)/.installed  ## the site of the documentation, into site/; any warning is an error
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[docs]"
	$(BIN)/sphinx-build -W --keep-going -q -b html docs site

bench: $(VENV)/.installed  ## every benchmark, into benchmarks/results (about an hour); DATA=DIR of MNIST
	$(BIN)/python benchmarks/all.py $(if $(DATA),--data-dir $(DATA))

clean:
	rm -rf site $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
