# Every target sets up what it needs: a fresh machine wants only make and Python 3.11 or newer.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CATALOG ?= $(CURDIR)/wbc-catalog
IMAGES ?= 320
DATA ?= smear:300
STUDY ?= $(CURDIR)/study

export RAY_USAGE_STATS_ENABLED = 0
# Many containers forbid Python to keep what it compiled; every process of a test or of Ray then
# compiles torch and diffusers anew, 20 s each.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: wbc study check test test-ray test-stored test-trained test-rest test-all gpu fuzz lint docs bench clean

wbc: $(VENV)/installed ## draw white blood cells into $(CATALOG) on a local Ray head
	$(BIN)/python cluster/local.py python jobs/generate_wbc.py --catalog $(CATALOG) --num-images $(IMAGES)

study: $(VENV)/installed ## do drawn cells help few labels? Of a smear that code draws, or of DATA=my-images
	$(BIN)/python docs/studies/few_labels.py --data $(DATA) --output $(STUDY)

DEFAULT := not slow and not gpu

STORED := $(addprefix tests/,catalog cluster gate models monitor real security submit)

TRAINED := $(addprefix tests/,finetune golden judge methods)

test: $(VENV)/installed ## the default tests, in four processes: those on Ray often wait
	@$(MAKE) --no-print-directory -j 4 test-ray test-stored test-trained test-rest

test-ray: $(VENV)/installed
	$(BIN)/python -m pytest -q -m "$(DEFAULT) and ray"

test-stored: $(VENV)/installed ## real images in, tables and pages out
	$(BIN)/python -m pytest -q -m "$(DEFAULT) and not ray" $(STORED)

test-trained: $(VENV)/installed
	$(BIN)/python -m pytest -q -m "$(DEFAULT) and not ray" $(TRAINED)

test-rest: $(VENV)/installed
	$(BIN)/python -m pytest -q -m "$(DEFAULT) and not ray" $(addprefix --ignore=,$(STORED) $(TRAINED))

test-all: $(VENV)/installed ## and the slow ones: 30 kills, long streams
	$(BIN)/python -m pytest -q -m "not gpu and not fuzz"

check: lint ## what to run while working: lint, types, and the tests of what was changed
	$(BIN)/python -m pytest -q -x -m "$(DEFAULT) and not ray" $$($(BIN)/python -m tests.changed)

gpu: $(VENV)/installed ## what only a card can show: bits, solvers, waits, NCCL, images/s; skipped with the reason without one
	$(BIN)/python -m pytest -q -rs -s -m gpu tests/gpu

fuzz: $(VENV)/installed ## hostile configurations, pictures, rows and SQL, a minute each
	$(BIN)/python -m pytest -q -m fuzz

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

docs: $(VENV)/installed ## the pages as a site in build/site; a link that leads nowhere is an error
	$(BIN)/python -m mkdocs build --strict --config-file docs/site/mkdocs.yml
	@echo "page: build/site/index.html"

bench: $(VENV)/installed ## ratios, each measured within one run
	$(BIN)/python -m tests.bench

$(VENV)/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@$(BIN)/python -c 'import diffusers.loaders, ray.data, torch, transformers' # compiled once, and no more than is used
	@touch $@

clean: ## remove the environment and caches, never a catalog
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache .hypothesis
