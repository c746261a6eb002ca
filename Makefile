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

QUICK := outputs/quickstart

quickstart: setup
	rm -rf $(QUICK)
	$(BIN)/python train.py experiment=quickstart hydra.run.dir=$(QUICK)/train
	$(BIN)/agvae export $(QUICK)/train/checkpoints/last.ckpt $(QUICK)/model.safetensors
	$(BIN)/python evaluate.py checkpoint=$(QUICK)/model.safetensors codecs=[jpeg] hydra.run.dir=$(QUICK)/evaluation
	photo=$$($(BIN)/python -c "from importlib.resources import files; print(files('skimage.data') / 'coffee.png')") && \
	for quality in 1.5 3.25; do \
		$(BIN)/agvae compress $$photo $(QUICK)/coffee_$$quality.agv --quality $$quality --model $(QUICK)/model.safetensors && \
		$(BIN)/agvae decompress $(QUICK)/coffee_$$quality.agv $(QUICK)/coffee_$$quality.png --model $(QUICK)/model.safetensors \
		|| exit 1; \
	done
	@echo
	@echo "The model:                     $(QUICK)/model.safetensors"
	@echo "Its training, logs and curves: $(QUICK)/train"
	@echo "RD plots beside JPEG:          $(QUICK)/evaluation/rd_psnr.png and rd_ms_ssim.png"
	@echo "A photo at two rates:          $(QUICK)/coffee_1.5.png and coffee_3.25.png, with their .agv files"

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
