# make demo   everything, from a bare machine to a report
# make test   the whole test suite          make unit   its fast part
# make lint   ruff and mypy                 make docs   the documentation, in docs/_build/html
# make install   the virtual environment they all use
#
# PYTHON=python3.12             another interpreter (3.11 to 3.13)
# TORCH_INDEX=<index url>       another build of torch: see the README

PYTHON ?= python3
TORCH_INDEX ?=
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

# Tests run one process a core, so that torch must not start threads of its own in each.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile

.PHONY: install demo test unit lint docs clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if (3, 11) <= v < (3, 14) else \
	  f"mtdiff needs Python 3.11 to 3.13, {sys.executable} is {v.major}.{v.minor}: make PYTHON=python3.12 ...")'
	@echo "installing into $(VENV) (one to three minutes) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	@$(PIP) --editable '.[dev]'
	@touch $@

demo:
	@started=$$(date +%s) && $(MAKE) --no-print-directory install && $(BIN)/mtdiff demo --started $$started

test: install
	$(PYTEST)

unit: install
	$(PYTEST) -m "not slow"

lint: install
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

# Every warning is an error: a link that leads nowhere, a registry without a page.
docs: install
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

clean:
	rm -rf $(VENV) build dist docs/_build
