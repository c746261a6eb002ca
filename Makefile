# Everything needs only Python 3.11 and make; the first call of any target makes .venv.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help setup quickstart test test-all lint format sweeps clean
.DEFAULT_GOAL := help

help:
	@echo "make quickstart   evaluate the shipped model, compress a photo, train it a little further"
	@echo "make test         the tests (some minutes on 2 cores)"
	@echo "make test-all     with the slow ones"
	@echo "make lint         what pre-commit checks: style and types"
	@echo "make format       put the style right"
	@echo "make sweeps       write sweeps/*.yaml anew from conf/sweep"
	@echo "make setup        only the virtual environment in $(VENV)"
	@echo "make clean        delete $(VENV), outputs, multirun and the checkers' caches"

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

setup: $(VENV)/.ready

QUICK := outputs/quickstart

quickstart: setup
	rm -rf $(QUICK)
	$(BIN)/python evaluate.py checkpoint=agvae-small-mse hydra.run.dir=$(QUICK)/evaluation
	photo=$$($(BIN)/python -c "from importlib.resources import files; print(files('skimage.data') / 'coffee.png')") && \
	for bpp in 0.25 0.5; do \
		$(BIN)/agvae compress $$photo $(QUICK)/coffee_$$bpp.agv --bpp $$bpp && \
		$(BIN)/agvae decompress $(QUICK)/coffee_$$bpp.agv $(QUICK)/coffee_$$bpp.png || exit 1; \
	done
	$(BIN)/python train.py experiment=quickstart hydra.run.dir=$(QUICK)/train
	$(BIN)/agvae export $(QUICK)/train/checkpoints/last.ckpt $(QUICK)/model.safetensors
	@echo
	@echo "RD plots beside JPEG, WebP and AVIF: $(QUICK)/evaluation/rd_psnr.png and rd_ms_ssim.png"
	@echo "A photo at two rates:                $(QUICK)/coffee_0.25.png and coffee_0.5.png, with their .agv files"
	@echo "The model, trained a little further: $(QUICK)/model.safetensors, its logs and curves in $(QUICK)/train"

# One thread each: two processes with two threads would wait for each other.
TESTS := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

test: setup
	$(TESTS)

test-all: setup
	$(TESTS) -m 'slow or not slow'

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# sweeps/*.yaml, the grids of conf/sweep as W&B reads them.
sweeps: setup
	$(BIN)/python sweeps/make.py

clean:
	rm -rf $(VENV) outputs multirun .mypy_cache .pytest_cache .ruff_cache
