# `make` lists what there is. Everything installs itself into .venv; nothing else is touched.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq
# For what takes long: the download and its progress are shown.
PIP_SHOWN := $(BIN)/python -m pip --disable-pip-version-check
# The tested torch. On Linux, PyPI serves the CUDA build, several GB; for the CPU build alone:
#   make test TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH := $(shell sed -n 's/^\(torch==.*\)/\1/p' constraints.txt)
TORCH_INDEX ?=
# Install from requirements.lock, by hash; torch alone goes by its version (docs/security.md says why).
# CI sets it.
HASHES ?= $(CI)
UV := uv==0.13.9
PIP_AUDIT := pip-audit==2.10.1
# Arguments for pytest, mmformat or the benchmarks: make test ARGS="tests/unit -k header"
ARGS ?=
SHELL := /bin/bash

.DEFAULT_GOAL := help
.PHONY: help demo test test-all test-base lint types floors rooms soak chaos net-chaos sweep engines sglang-server conformance fuzz js browser docs notebook release newcomer lock audit ci bench counts constraints clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | awk -F '\t' '{printf "  make %-12s %s\n", $$1, $$2}'

demo: $(VENV)/.stamp-run  ## photographs to four ranks through shared memory, checked bit for bit
	@$(BIN)/mmformat demo $(ARGS)

test: $(VENV)/.stamp-dev  ## the tests, the architecture's too, but for the slow ones
	@$(BIN)/python -m pytest -q -m "not slow" $(ARGS)

test-all: $(VENV)/.stamp-dev  ## every test
	@$(BIN)/python -m pytest -q $(ARGS)

test-base:  ## the unit tests on a base install, without torch, on each Python of this machine
	@.ci/base $(ARGS)

lint: $(VENV)/.stamp-dev  ## ruff
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(VENV)/.stamp-dev  ## mypy --strict
	@$(BIN)/mypy

floors: $(VENV)/.stamp-dev  ## what may import what
	@$(BIN)/lint-imports --no-logo

rooms: $(VENV)/.stamp-dev  ## write the list of modules into docs/ARCHITECTURE.md
	@$(BIN)/python tests/architecture/tree.py --write

bench: $(VENV)/.stamp-rivals  ## where we stand on this machine, in a minute (ARGS="fanout --payload image" for one scenario)
	@$(BIN)/python -m benchmarks $(or $(ARGS),--quick)

counts: $(VENV)/.stamp-dev  ## copies, memory and calls of each operation beside the committed ones
	@$(BIN)/python -m benchmarks counts --compare benchmarks/results/counts.json $(ARGS)

soak: $(VENV)/.stamp-dev  ## 10,000 rounds through the arena: memory, descriptors and /dev/shm stay flat
	@MMFORMAT_SOAK_ROUNDS=10000 $(BIN)/python -m pytest -q -s --timeout 900 tests/integration/test_soak.py

chaos: $(VENV)/.stamp-dev  ## 2,000 requests while ranks and producers are killed at random
	@$(BIN)/python -m benchmarks.chaos $(ARGS)

net-chaos: $(VENV)/.stamp-dev  ## 2,000 fetches over three hosts while links and processes fail (as root, Linux)
	@MMFORMAT_NET_REQUESTS=2000 $(BIN)/python -m pytest -q -s --timeout 3600 tests/net -k chaos $(ARGS)

sweep: $(VENV)/.stamp-dev  ## every bit of every golden vector flipped, every length cut
	@$(BIN)/python -m tests.support.sweep $(ARGS)

engines: $(VENV)/.stamp-dev  ## the adapters against the real SGLang and vLLM, each in an environment of its own
	@benchmarks/engines/run.sh test $(ARGS)

sglang-server:  ## a real SGLang server on the CPU, stock and with the adapter (3 GB of packages; SERVER_VENV=folder)
	@tests/servers/sglang/run.sh $(ARGS)

conformance: $(VENV)/.stamp-dev  ## both of transformers' backends bit for bit, Pillow's own images too (ARGS=--quick for what CI runs)
	@VENV=$(VENV) .ci/conformance $(ARGS)

fuzz: $(VENV)/.stamp-dev  ## every attack surface under atheris (ARGS="--minutes 60 --workers 2")
	@$(BIN)/python -m tests.fuzz.campaign $(ARGS)
	@$(BIN)/python -m tests.fuzz.report

js:  ## the JavaScript reader over every golden vector (needs node 20 or newer)
	@npm --prefix examples/js-reader ci --ignore-scripts --no-audit --no-fund
	@npm --prefix examples/js-reader test

browser:  ## what the tests of the inspect page need: Debian's chromium (as root), and axe-core (by npm)
	@if command -v chromium chromium-browser google-chrome >/dev/null; then \
	  echo "There is a browser."; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
	    apt-get install -y -qq --no-install-recommends chromium >/dev/null; \
	else \
	  echo "No browser, and no root to install one: the tests of the page will say so."; \
	fi
	@if command -v npm >/dev/null; then \
	  npm --prefix tests/integration/axe ci --ignore-scripts --no-audit --no-fund; \
	fi

docs: $(VENV)/.stamp-dev  ## the documentation site, strictly (ARGS=serve to look at it while writing)
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs $(or $(ARGS),build --quiet)

notebook: $(VENV)/.stamp-dev  ## write examples/tutorial.ipynb from docs/tutorial.md
	@$(BIN)/python docs/site/notebook.py

newcomer: $(VENV)/.stamp-dev  ## README's commands in a fresh environment, from the wheel, outside the checkout
	@$(BIN)/python tests/newcomer/run.py $(ARGS)

release: $(VENV)/.stamp-dev  ## build and check the distributions; uploads nothing
	@rm -rf dist
	@$(BIN)/python -m build --outdir dist .
	@$(BIN)/python -m twine check --strict dist/*
	@$(BIN)/python tests/newcomer/run.py --wheel dist/*.whl
	@echo "Checked, not uploaded. To publish: $(BIN)/python -m twine upload dist/*"

ci: test lint types floors  ## what every change must pass; .ci/run adds counts, demo, fuzz, js and audit

lock: | $(BIN)/python  ## write requirements.lock: constraints.txt with the hash of every file
	@$(BIN)/python -m venv .venv-lock
	@.venv-lock/bin/python -m pip --disable-pip-version-check -qq install $(UV)
	@.venv-lock/bin/uv --quiet --config-file .ci/uv.toml pip compile pyproject.toml --universal \
	  --python-version 3.11.5 --extra all --group dev --constraints constraints.txt \
	  --generate-hashes --no-emit-package torch --no-annotate \
	  --custom-compile-command 'make lock' --output-file requirements.lock

audit: | $(BIN)/python  ## known vulnerabilities of what the lock names (asks pypi.org)
	@$(BIN)/python -m venv .venv-audit
	@.venv-audit/bin/python -m pip --disable-pip-version-check -qq install $(PIP_AUDIT)
	@.venv-audit/bin/python .ci/audit.py $(ARGS)

constraints: $(VENV)/.stamp-dev  ## write the installed versions to constraints.txt
	@{ sed -n '/^#/p' constraints.txt; \
	   $(BIN)/python -m pip freeze --exclude-editable | sed '/^mmformat/d; s/+cpu$$//'; } > constraints.new
	@mv constraints.new constraints.txt

clean:  ## remove caches and builds; .venv stays
	@rm -rf .fuzz .venv-lock .venv-audit build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	@find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

# ---- set-up: the environment, what a user runs, what a contributor adds -------------------------

$(BIN)/python:
	@set -e; for candidate in $(PYTHON) python3 python3.13 python3.12 python3.11 python3.14; do \
	  if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    echo "Making $(VENV) with $$("$$candidate" --version) ..."; \
	    "$$candidate" -m venv $(VENV); \
	    exit 0; \
	  fi; \
	done; \
	echo "error: expected Python 3.11 or newer, got $$($(PYTHON) --version 2>&1)" >&2; \
	echo >&2; \
	echo "hint: name one with  make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; \
	exit 1

ifneq ($(strip $(HASHES)),)
$(VENV)/.stamp-run: pyproject.toml requirements.lock | $(BIN)/python
	@echo "Installing requirements.lock, each file by its hash ..."
	@$(PIP) install --require-hashes --no-deps -r requirements.lock
	@echo "Installing $(TORCH) ..."
	@$(PIP_SHOWN) install $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $(TORCH)
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.stamp-dev: $(VENV)/.stamp-run
	@$(BIN)/python -m pip --disable-pip-version-check check
	@touch $@
else
$(VENV)/.stamp-run: pyproject.toml constraints.txt | $(BIN)/python
	@$(PIP) install --upgrade 'pip>=25.1'
	@echo "Installing $(TORCH) ..."
	@$(PIP_SHOWN) install -c constraints.txt $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $(TORCH)
	@echo "Installing mmformat and what the demo needs ..."
	@$(PIP) install -c constraints.txt -e '.[torch,media,zmq,cli]'
	@touch $@

$(VENV)/.stamp-dev: pyproject.toml constraints.txt $(VENV)/.stamp-run | $(BIN)/python
	@echo "Installing what the tests, the linters and the benchmarks need ..."
	@$(PIP) install -c constraints.txt -e '.[all]' --group dev
	@touch $@
endif

$(VENV)/.stamp-rivals: pyproject.toml constraints.txt $(VENV)/.stamp-dev | $(BIN)/python
	@echo "Installing the rivals of the benchmarks ..."
	@$(PIP) install -c constraints.txt -e '.[all]' --group rivals
	@touch $@
