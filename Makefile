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
.PHONY: help install demo test test-data test-all test-hub test-frameworks bench-env bench bench-full check docs clean

BIN := .venv/bin
PIP := $(BIN)/python -m pip -qq --disable-pip-version-check

# An installation is good for one packaging, one list of module files and one .venv. The editable
# install links each module file from build/: changed content needs nothing, a new or renamed file
# needs a reinstall. The stamps lie in build/ too, since without build/ the package is gone.
PACKAGE_FILES := $(sort $(shell find engine export models -type f -not -name '*.pyc' 2>/dev/null))
KEY := $(shell { cat pyproject.toml setup.cfg; echo $(PACKAGE_FILES); } | cksum | cut -d ' ' -f 1)
INSTALLED := build/stamps/$(KEY)-install
TESTABLE := build/stamps/$(KEY)-test
FRAMEWORKS := build/stamps/$(KEY)-frameworks
CHECKABLE := build/stamps/$(KEY)-check
DOCUMENTED := build/stamps/$(KEY)-docs

help: ## Print the targets.
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 17

install: $(INSTALLED) ## Install the package, editable, with [cpu,export] into .venv.

demo: $(INSTALLED) ## Rank passages for a query, with the embedded model or MODEL=<checkpoint or artifact folder>
	@$(BIN)/python -m benchmarks.demo $(if $(strip $(MODEL)),"$$MODEL")

test: $(TESTABLE) ## Run the tests, except those marked slow or hub.
	@$(BIN)/python -m pytest

test-data: $(TESTABLE) ## Run the tests that need test data, which lies in CROSSRANK_TEST_DATA (by default ../shared).
	@$(BIN)/python -m pytest -m 'data and not slow and not hub'

test-all: $(TESTABLE) ## Run the tests marked slow too.
	@$(BIN)/python -m pytest -m 'not hub'

test-hub: $(TESTABLE) ## Compare published models with their scores (downloads 11 GB): make test-hub OPTIONS='-k TinyBERT'
	@$(BIN)/python -m pytest tests/export/test_hub.py -m hub $(OPTIONS)

test-frameworks: $(FRAMEWORKS) ## Run the examples and uses in LangChain, LlamaIndex, Haystack and more (installs 800 MB).
	@CROSSRANK_TEST_FRAMEWORKS=1 $(BIN)/python -m pytest tests/docs/test_examples.py tests/engine/test_consumers.py

bench-env: $(INSTALLED) ## Make the environments of the benchmarks' other engines, in .bench (takes minutes).
	@$(BIN)/python -m benchmarks._environments

bench: $(TESTABLE) ## Measure beside other engines, under an hour on two cores; the tables and the plot are written anew.
	$(call measure,)

bench-full: $(TESTABLE) ## Measure every model at every size; takes a night.
	$(call measure,--full)

# $(call measure,OPTIONS OF THE SUITE): an environment that cannot be made, or a measurement that fails, is
# named and leaves the others to be done and reported; what is done is not done again.
define measure
@$(BIN)/python -m benchmarks._environments || true
@status=0; $(BIN)/python -m benchmarks suite $(1) $(OPTIONS) || status=$$?; \
    [ $$status -eq 130 ] || $(BIN)/python -m benchmarks report; exit $$status # 130: interrupted
endef

check: $(CHECKABLE) build/wheel/venv/installed ## Check format, lint and types (of the sources and of the built wheel).
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@# Scripts beside each other, no package. torch has no types here.
	@$(BIN)/mypy --allow-subclassing-any --allow-untyped-decorators models/crossrank-mini-en
	@# --verifytypes takes the python that PATH finds, whatever --pythonpath says
	@PATH="$$PWD/build/wheel/venv/bin:$$PATH" PYRIGHT_PYTHON_IGNORE_WARNINGS=1 \
	    $(BIN)/pyright --verifytypes crossrank --ignoreexternal

docs: $(DOCUMENTED) ## Build the site into build/docs, the API reference from the docstrings; a dead link fails.
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

# $(call install,STAMPS THAT IT EARNS,OPTIONS OF PIP)
define install
@echo 'installing crossrank[cpu,export] $(2)'
@rm -rf build/stamps && mkdir -p build/stamps
@$(PIP) install --no-build-isolation --editable '.[cpu,export]' $(2)
@touch $(1)
endef

$(INSTALLED): .venv/ready
	$(call install,$(INSTALLED))

$(TESTABLE): .venv/ready
	$(call install,$(INSTALLED) $(TESTABLE),--group test)

$(FRAMEWORKS): .venv/ready
	$(call install,$(INSTALLED) $(TESTABLE) $(FRAMEWORKS),--group frameworks)

$(CHECKABLE): .venv/ready
	$(call install,$(INSTALLED) $(TESTABLE) $(CHECKABLE),--group check)

$(DOCUMENTED): .venv/ready
	$(call install,$(INSTALLED) $(DOCUMENTED),--group docs)

# What a user installs: sdist, from it the wheel, and that beside .venv's dependencies. Built from an
# unpacked sdist, since an old build/lib would ship deleted files.
build/wheel/venv/installed: $(CHECKABLE) $(PACKAGE_FILES) MANIFEST.in
	@echo 'building the wheel'
	@rm -rf build/wheel && mkdir -p build/wheel
	@$(BIN)/python -c 'import setuptools.build_meta as b; b.build_sdist("build/wheel")' >build/wheel/log 2>&1 \
	    || { cat build/wheel/log >&2; exit 1; }
	@$(PIP) wheel --no-deps --no-build-isolation --wheel-dir build/wheel build/wheel/*.tar.gz
	@$(BIN)/python -m venv --without-pip build/wheel/venv
	@$(PIP) install --no-deps --no-compile --target build/wheel/site build/wheel/*.whl
	@site() { "$$1" -c 'import sysconfig; print(sysconfig.get_path("purelib"))'; }; \
	    { echo "$$PWD/build/wheel/site"; site $(BIN)/python; } >"$$(site build/wheel/venv/bin/python)/wheel.pth"
	@touch $@
