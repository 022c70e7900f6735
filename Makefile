# Needs Python 3.11 and make, nothing else: every package comes as a wheel, at the version that requirements.txt pins.
PYTHON ?= python3.11
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.complete

.DEFAULT_GOAL := help
.PHONY: help env demo lab notebooks site test format

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

env: $(STAMP) ## make or renew the environment in .venv/ (about 6 GB)

demo: env ## train a baseline and a distilled student and compare them
	$(BIN)/gdetkd demo

lab: env ## open the notebooks in JupyterLab
	$(BIN)/jupyter lab $(firstword $(wildcard notebooks/[0-9]*.ipynb) notebooks)

notebooks: env ## run all notebooks (or NB=FILE) and keep their outputs; renew their index
	$(BIN)/python tests/run_notebooks.py $(NB)

site: env ## make build/site/, all pages and notebooks with search and the API, to open from disk (a minute)
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going -c docs . build/site
	@echo "Open build/site/README.html"

test: env ## check the style and run all tests, two files at a time (15 minutes)
	$(BIN)/ruff check .
	$(BIN)/python -m pytest -n 2 --dist loadfile

format: env ## fix what ruff can fix, and format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# A working environment is updated; a broken one (interrupted, its Python gone) is created again.
$(STAMP): requirements.txt pyproject.toml
	@$(BIN)/python -c 'import pip, sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null || { \
	  $(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null || { \
	    echo "gdetkd needs Python 3.11, and '$(PYTHON)' is not that. Install it," \
	         "or say where it is: make env PYTHON=/path/to/python3.11" >&2; exit 1; }; \
	  $(PYTHON) -m venv --clear $(VENV) || { \
	    echo "'$(PYTHON)' could not make a virtual environment: on Debian and Ubuntu install" \
	         "python3.11-venv." >&2; exit 1; }; }
	@echo 'Installing what requirements.txt pins into $(VENV)/: a few minutes the first time.'
	@$(BIN)/python -m pip install --quiet --no-deps --require-hashes -r requirements.txt
	@$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	@$(BIN)/python -m pip check
	@touch $@
