# The commands of README and CONTRIBUTING. Each creates and updates .venv by itself; needed are
# Python >= 3.11, pip and a package index. Another interpreter: make test PYTHON=python3.13

PYTHON ?= python3
MODEL ?=
OPTIONS ?=

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.NOTPARALLEL:
.DEFAULT_GOAL := help
.PHONY: help install demo demo-serve test test-data test-all test-rig test-hub test-frameworks test-clients test-scale bench-env bench check docs clean

BIN := .venv/bin
PIP := $(BIN)/python -m pip -qq --disable-pip-version-check

# An installation is good for one packaging, one list of module files and one .venv. The editable install links each
# module file from build/: changed content needs nothing, a new or renamed file needs a reinstall. The stamps, one for
# each group of pyproject.toml, lie in build/ too, since without build/ the package is gone.
PACKAGE_FILES := $(sort $(shell find engine export models -type f -not -name '*.pyc' 2>/dev/null))
STAMP := build/stamps/$(shell { cat pyproject.toml setup.cfg; echo $(PACKAGE_FILES); } | cksum | cut -d ' ' -f 1)

help: ## Print the targets.
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 17

install: $(STAMP)-install ## Install the package, editable, with [cpu,export,serve] into .venv.

demo: $(STAMP)-install ## Rank passages for a query, with the embedded model or MODEL=<checkpoint or artifact folder>
	@$(BIN)/python examples/demo.py $(if $(strip $(MODEL)),"$$MODEL")

demo-serve: PORT ?= 8080
demo-serve: $(STAMP)-install ## Serve the embedded model, or MODEL=, on loopback and open its page: make demo-serve PORT=8081
	@$(BIN)/crossrank serve --port $(PORT) $(if $(strip $(MODEL)),"$$MODEL") & server=$$!; trap 'kill $$server; wait' EXIT; \
	until $(BIN)/python -c 'import urllib.request as u; u.urlopen("http://127.0.0.1:$(PORT)/ready")' 2>/dev/null; do \
	    kill -0 $$server && sleep 0.2; done; \
	echo "curl http://127.0.0.1:$(PORT)/v1/rerank -H 'Content-Type: application/json' -d" \
	    "'{\"query\": \"how many people live in berlin\", \"documents\": [\"Berlin has museums.\", \"3.5 million live in Berlin.\"]}'"; \
	$(BIN)/python -m webbrowser http://127.0.0.1:$(PORT)/ >/dev/null || true; wait $$server

test: $(STAMP)-test ## Run the tests, except those marked slow or hub.
	@$(BIN)/python -m pytest

test-data: $(STAMP)-test ## Run the tests that need test data, which lies in CROSSRANK_TEST_DATA (by default ../shared).
	@$(BIN)/python -m pytest -m 'data and not slow and not hub'

test-all: $(STAMP)-test ## Run the tests marked slow too.
	@$(BIN)/python -m pytest -m 'not hub'

test-rig: $(STAMP)-test ## Run the GPU's tests on an emulation of CUDA, made of test data (g++; downloads 750 MB): OPTIONS=--all
	@$(BIN)/python -m tests.support.emulated $(OPTIONS)

test-hub: $(STAMP)-test ## Compare published models with their scores (downloads 11 GB): make test-hub OPTIONS='-k TinyBERT'
	@$(BIN)/python -m pytest tests/export/test_hub.py -m hub $(OPTIONS)

test-frameworks: $(STAMP)-frameworks ## Run the examples and uses in LangChain, LlamaIndex, Haystack, pandas, gevent and more (installs 1 GB).
	@CROSSRANK_TEST_FRAMEWORKS=1 $(BIN)/python -m pytest tests/docs/test_examples.py tests/docs/test_gevent.py \
		tests/engine/test_consumers.py tests/engine/test_drop_in.py

test-clients: $(STAMP)-clients ## Have real clients of rerank services ask crossrank serve (installs 700 MB).
	@CROSSRANK_TEST_CLIENTS=1 $(BIN)/python -m pytest tests/engine/serve/test_clients.py

# Triton's server wants an older numpy beside it, and nothing else of what its wheel names.
test-scale: $(STAMP)-scale ## Run what works beyond one machine with Ray, Beam, Dask and Triton's own server (installs 900 MB).
	@test -d build/triton/pytriton || $(PIP) install --target build/triton --no-deps 'nvidia-pytriton==0.7.0' 'numpy<2'
	@CROSSRANK_TEST_TRITON="$$PWD/build/triton" $(BIN)/python -m pytest -m 'not hub and not gpu' tests/engine/batch \
		tests/engine/ray tests/engine/beam tests/engine/triton tests/docs/test_examples.py $(OPTIONS)

bench-env: $(STAMP)-install ## Make the environments of the benchmarks' other engines, in .bench (takes minutes).
	@$(BIN)/python -m benchmarks.engines.environments

bench: $(STAMP)-test ## Measure beside other engines, under an hour on two idle cores; the tables are written anew.
# An environment that cannot be made, or a measurement that fails, is named and leaves the others to be done and
# reported; what is done is not done again. Status 130: interrupted.
	@$(BIN)/python -m benchmarks.engines.environments || true
	@status=0; $(BIN)/python -m benchmarks suite $(OPTIONS) || status=$$?; \
	    [ $$status -eq 130 ] || $(BIN)/python -m benchmarks report; exit $$status

check: $(STAMP)-check build/wheel/log ## Check format, lint and types (of the sources and of the built wheel).
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@# Scripts beside each other, no package. torch has no types here.
	@$(BIN)/mypy --allow-subclassing-any --allow-untyped-decorators models/crossrank-mini-en
	@# --verifytypes takes the python that PATH finds, whatever --pythonpath says
	@PATH="$$PWD/build/wheel/venv/bin:$$PATH" PYRIGHT_PYTHON_IGNORE_WARNINGS=1 \
	    $(BIN)/pyright --verifytypes crossrank --ignoreexternal

docs: $(STAMP)-docs ## Build the site into build/docs, the API reference from the docstrings; a dead link fails.
	@$(BIN)/sphinx-build -W --keep-going -q -b html -c docs . build/docs
	@echo 'built build/docs/docs/index.html'

clean: ## Remove .venv, builds and caches.
	rm -rf .venv build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find engine export models benchmarks tests -type d -name __pycache__ -prune -exec rm -rf {} +

.venv/ready:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	    echo 'crossrank needs Python >= 3.11 ("$(PYTHON)" is older or absent): name one, as in' \
	    'make test PYTHON=python3.13' >&2; exit 1; }
	@echo 'creating .venv'
	@$(PYTHON) -m venv --clear .venv
	@$(PIP) install --upgrade 'pip>=26.2' 'setuptools>=83'
	@touch $@

$(STAMP)-%: .venv/ready
	@echo 'installing crossrank[cpu,export,serve]$(if $(filter-out install,$*), and what the group $* needs)'
	@mkdir -p build/stamps && find build/stamps -type f ! -name '$(notdir $(STAMP))-*' -delete
	@$(PIP) install --no-build-isolation --editable '.[cpu,export,serve]' $(if $(filter-out install,$*),--group $*)
	@touch $@

build/wheel/log: $(STAMP)-check $(PACKAGE_FILES) MANIFEST.in
	@.ci/wheel
	@touch $@
