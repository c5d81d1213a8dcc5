# What .ci/run does, step by step. PYTHON and LOWEST may be set: make test PYTHON=.venv/bin/python
PYTHON ?= python3
LOWEST ?= .venv-lowest
# The parts of the suite that meet the ends of the version ranges: loader, loop, engine, records, plots, data sets.
LOWEST_TESTS = tests/test_shapes.py tests/checkpoint tests/model tests/patching \
	tests/records/test_read.py tests/records/test_journal.py tests/records/test_journal_lines.py \
	tests/plots tests/data/test_datasets.py
export HF_HUB_OFFLINE = 1
export WANDB_MODE = offline

.PHONY: all install test browser lint types docs lowest

all: install test browser lint types docs lowest

install:
	$(PYTHON) -m pip install -e '.[dev]'

test:
	$(PYTHON) -m pytest

# Needs Chromium and its driver.
browser:
	$(PYTHON) -m pytest -m browser

lint:
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

types:
	$(PYTHON) -m mypy

# The documentation as a site, in site/; index.html opens from disk.
docs:
	$(PYTHON) -m pip install -q -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs build --strict -q

# The lowest versions that pyproject.toml admits, in an environment of their own.
lowest:
	$(PYTHON) -m venv $(LOWEST)
	$(PYTHON) .ci/lowest >$(LOWEST)/lowest.txt
	$(LOWEST)/bin/python -m pip install -q -e . pytest pytest-xdist hypothesis beartype kaleido pandas xarray -c $(LOWEST)/lowest.txt
	$(LOWEST)/bin/python -m pytest -q $(LOWEST_TESTS)
