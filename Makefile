# You need only Python 3.11 and make. The first call of any target creates .venv.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help setup quickstart test test-all lint format sweeps docs clean
.DEFAULT_GOAL := help

help:
	@echo "make quickstart   evaluate the default model, compress a photo, train the small model a little"
	@echo "make test         run the tests (4 minutes on 2 cores, 7 the first time)"
	@echo "make test-all     run the tests, including slow ones"
	@echo "make lint         check style and types, as pre-commit does"
	@echo "make format       fix the style"
	@echo "make sweeps       regenerate sweeps/*.yaml from conf/sweep"
	@echo "make docs         regenerate docs/configuration.md from the schema"
	@echo "make setup        create the virtual environment in $(VENV), and nothing else"
	@echo "make clean        delete $(VENV), outputs, multirun and the caches of the checkers"

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

setup: $(VENV)/.ready

QUICK := outputs/quickstart

quickstart: setup
	rm -rf $(QUICK)
	$(BIN)/python evaluate.py checkpoint=agvae-mse hydra.run.dir=$(QUICK)/agvae-mse
	photo=$$($(BIN)/python -c "from importlib.resources import files; print(files('skimage.data') / 'coffee.png')") && \
	$(BIN)/agvae compress $$photo $(QUICK)/coffee.agv --bpp 0.25 && \
	$(BIN)/agvae decompress $(QUICK)/coffee.agv $(QUICK)/coffee.png && \
	$(BIN)/python -m agvae.reporting.side_by_side $$photo --bpp 0.2 -o $(QUICK)/side_by_side.png
	$(BIN)/python train.py experiment=quickstart hydra.run.dir=$(QUICK)/train
	$(BIN)/agvae export $(QUICK)/train/checkpoints/last.ckpt $(QUICK)/trained-here.safetensors
	for model in agvae-small-mse $(QUICK)/trained-here.safetensors; do \
		$(BIN)/python evaluate.py checkpoint=$$model codecs=[] hydra.run.dir=$(QUICK)/$$(basename $$model .safetensors) || exit 1; \
	done
	$(BIN)/agvae report $(QUICK) -o $(QUICK)/report.html --title "Quickstart"
	@echo
	@echo "A photo at 0.2 bpp, five codecs:      $(QUICK)/side_by_side.png"
	@echo "A photo at 0.25 bpp, compressed:      $(QUICK)/coffee.agv, decompressed: $(QUICK)/coffee.png"
	@echo "agvae-mse beside JPEG, WebP and AVIF: $(QUICK)/agvae-mse/rd_psnr.png and rd_ms_ssim.png"
	@echo "The small model, trained further:     $(QUICK)/trained-here.safetensors, its logs in $(QUICK)/train"
	@echo "All runs on one page:                 $(QUICK)/report.html"

# One thread for each process, because two processes with two threads would wait for each other.
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

# sweeps/*.yaml: the grids of conf/sweep in the format of W&B.
sweeps: setup
	$(BIN)/python sweeps/make.py

# docs/configuration.md: the reference of all keys.
docs: setup
	$(BIN)/python docs/make.py

clean:
	rm -rf $(VENV) outputs multirun .mypy_cache .pytest_cache .ruff_cache
