# Two commands for a newcomer: `make demo` and `make test`. Both make a virtual environment first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test test-slow test-package dist lint docs bench clean

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

$(VENV)/.tools: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt build twine
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
	$(PYTEST) -m "not slow and not package"

test-slow: $(VENV)/.installed  ## every line of recording, kills, damage, whole studies (half an hour)
	$(PYTEST) -m slow

docs: $(VENV)/.installed  ## the site of the documentation, into site/; any warning is an error
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[docs]"
	$(BIN)/sphinx-build -W --keep-going -q -b html docs site

# In one process, as each environment is made once and shared.
test-package: $(VENV)/.tools  ## the wheel in empty environments, the oldest versions: 4 GB, minutes
	$(BIN)/python -m pytest -m package -o tmp_path_retention_policy=failed tests/package

dist: $(VENV)/.tools  ## source distribution and wheel, into dist
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*

bench: $(VENV)/.installed  ## every benchmark, into benchmarks/results (about an hour); DATA=DIR of MNIST
	$(BIN)/python benchmarks/all.py $(if $(DATA),--data-dir $(DATA))

clean:
	rm -rf site dist $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
