# Everything below sets itself up: a bare clone with Python 3.11 is enough. Docker is used when an engine answers.
PYTHON ?= python3.11
VENV := .venv
READY := $(VENV)/.ready
NEWEST := .venv-newest
# How the tests are run, which `make coverage` does its own way.
PYTEST := python -m pytest
# Errors alone: pip warns of settings that are the user's own affair.
PIP := -m pip --disable-pip-version-check -qq
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.PHONY: help test test-newest coverage lint format relock demo clean

help:
	@echo "make test         set up and run every test (Docker tests where an engine answers)"
	@echo "make demo         set up, train the vision starter project, replay it, end with the verdict"
	@echo "make lint         ruff, mypy --strict, import-linter"
	@echo "make coverage     every test, and which lines were run, those of child processes among them"
	@echo "make test-newest  the unit tests with the newest of everything instead of what is locked"
	@echo "make relock       lock the newest of everything anew, in requirements-dev.lock"

# From nothing each time, so that nothing is there but what the lock names.
$(READY): pyproject.toml requirements-dev.lock
	$(PYTHON) -m venv --clear $(VENV)
	$(VENV)/bin/python $(PIP) install --require-hashes --requirement requirements-dev.lock
	$(VENV)/bin/python $(PIP) install --no-deps --no-build-isolation --editable .
	touch $@

test: $(READY)
	$(PYTEST) --numprocesses auto tests/unit
	$(PYTEST) tests/integration

# uv is taken beyond its bound in pyproject.toml too (of which pip then complains): whether a newer one can be allowed is
# what this is to find out, and tests/unit/test_lock_uv.py says what it words otherwise.
test-newest: export PATH := $(CURDIR)/$(NEWEST)/bin:$(PATH)
test-newest:
	$(PYTHON) -m venv --clear $(NEWEST)
	$(NEWEST)/bin/python $(PIP) install --upgrade pip
	$(NEWEST)/bin/python $(PIP) install --editable '.[dev]'
	$(NEWEST)/bin/python $(PIP) install --upgrade uv
	$(PYTEST) --numprocesses auto tests/unit

coverage: $(READY)
	coverage erase
	$(MAKE) --no-print-directory test PYTEST='coverage run -m pytest'
	coverage combine --quiet
	coverage report

lint: $(READY)
	ruff check .
	ruff format --check .
	mypy
	lint-imports --no-cache

format: $(READY)
	ruff check --fix .
	ruff format .

relock: $(READY)
	uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --extra dev --no-annotate \
	  --custom-compile-command 'make relock' --output-file requirements-dev.lock pyproject.toml

demo: $(READY)
	rm -rf demo-run
	reprobox doctor
	reprobox init vision demo-run/vision
	cd demo-run/vision && reprobox run -- python train.py --epochs 2
	@# A replay needs the manifest alone: it is copied to an empty folder, and the project is left behind.
	mkdir demo-run/elsewhere
	cp demo-run/vision/runs/*-0001/manifest.yaml demo-run/elsewhere/
	@# A replay leaves the container only for `--engine local`. The demo, whose code is its own, types it without Docker.
	@cd demo-run/elsewhere && set -- $$(sed -n 's/^  kind: local$$/--engine local/p' manifest.yaml) \
	  && echo "cd demo-run/elsewhere &&" reprobox replay manifest.yaml "$$@" && reprobox replay manifest.yaml "$$@"

clean:
	rm -rf $(VENV) $(NEWEST) demo-run .coverage .coverage.* .mypy_cache .ruff_cache .pytest_cache .hypothesis
