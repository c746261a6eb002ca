# Everything needs only Python 3.11 and make; the first call of any target makes .venv.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help setup quickstart test test-all lint format clean
.DEFAULT_GOAL := help

help:
	@echo "make quickstart   train a small model on the bundled photos, evaluate it, compress a photo"
	@echo "make test         the tests (some minutes on 2 cores)"
	@echo "make test-all     with the slow ones"
	@echo "make lint         what pre-commit checks; make format puts it right"
	@echo "make setup        only the virtual environment in $(VENV)"

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

setup: $(VENV)/.ready

quickstart: setup
	$(BIN)/python -m agvae.quickstart

test: setup
	$(BIN)/python -m pytest -n 2 --dist worksteal

test-all: setup
	$(BIN)/python -m pytest -n 2 --dist worksteal -m 'slow or not slow'

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) outputs multirun
