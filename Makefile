# `make demo` and `make test` work on a fresh machine that has python3 (3.11 or newer) and make.
PYTHON ?= python3
VENV ?= .venv
PY := $(VENV)/bin/python
SEEDS ?= 1

.PHONY: demo test test-slow test-full release-check lint types docs tutorials check clean

demo: $(VENV)/.demo  ## train on handwritten digits, write runs/demo
	$(PY) -m spikeloom train digits --out runs/demo --overwrite --seeds $(SEEDS)

test: $(VENV)/.dev  ## all tests, in two processes
	$(PY) -m pytest -n 2 --dist worksteal

test-slow: $(VENV)/.dev  ## more of each kind than `make test` has
	$(PY) -m pytest -n 2 --dist worksteal -m slow

test-full: $(VENV)/.dev  ## a random sample of all that kernels do, and a thousand random neurons; before a release
	$(PY) -m pytest -m full

release-check: $(VENV)/.dev  ## every translation is of the page as it is now
	SPIKELOOM_RELEASE=1 $(PY) -m pytest -q tests/test_chinese.py

lint: $(VENV)/.dev  ## format and lint
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .

types: $(VENV)/.dev  ## static types
	$(VENV)/bin/mypy

docs: $(VENV)/.dev  ## the documentation, warnings are errors
	$(VENV)/bin/sphinx-build -W --keep-going -q -b html docs build/docs

tutorials: $(VENV)/.dev  ## run the tutorials (PAGES="01 04" for some), write their outputs, pictures and notebooks
	$(PY) docs/tutorials/make.py $(PAGES)

check: lint types docs test  ## what CI runs

clean:
	rm -rf $(VENV) build docs/reference .pytest_cache .mypy_cache .ruff_cache

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "spikeloom needs Python 3.11 or newer; try: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
	  { echo "no virtual environment could be made; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@touch $@

# Torch first and by its pin alone: nothing may pull another build of it.
$(VENV)/.torch: constraints.txt | $(VENV)/.python
	$(PY) -m pip install -q --disable-pip-version-check torch -c constraints.txt
	@touch $@

$(VENV)/.demo: pyproject.toml $(VENV)/.torch
	$(PY) -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[demo]'
	@touch $@

$(VENV)/.dev: pyproject.toml $(VENV)/.torch
	$(PY) -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@
