# Everything below sets itself up: a bare clone with Python 3.11 is enough. Docker is used when an engine answers.
PYTHON ?= python3.11
VENV := $(CURDIR)/.venv
READY := $(VENV)/.ready
export PATH := $(VENV)/bin:$(PATH)

.PHONY: help test lint format demo clean

help:
	@echo "make test   set up and run every test (Docker tests where an engine answers)"
	@echo "make demo   set up, train the vision starter project, replay it, end with the verdict"
	@echo "make lint   ruff, mypy --strict, import-linter"

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --editable '.[dev]'
	touch $@

test: $(READY)
	python -m pytest --numprocesses auto tests/unit
	python -m pytest tests/integration

lint: $(READY)
	ruff check .
	ruff format --check .
	mypy
	lint-imports --no-cache

format: $(READY)
	ruff check --fix .
	ruff format .

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
	rm -rf $(VENV) demo-run .mypy_cache .ruff_cache .pytest_cache .hypothesis
