# Two commands: `make synth` runs the main job, `make test` checks everything.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
WANTED := --constraint constraints.txt --editable '.[mlflow,ldm,test]'

# Our own files are compiled once, not by each of the processes that the tests start.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: synth page-models study-page test test-all-here test-some-versions test-versions services screenshots site dist lint style types clean

synth: $(READY)
	$(BIN)/mlflow run . -e synth -P steps=200 --env-manager local

# The better models that the pages' figures are of: an hour of one core, which is all they use,
# beside other work. `synth` and `quality` then take them, as the newest; docs/image_quality.md has
# the numbers.
page-models: PAGE_MODEL = $(BIN)/mlflow run . --env-manager local -P data=phantom:320
page-models: $(READY)
	$(PAGE_MODEL) -e vqgan -P dims=2 -P vqgan_iterations=1350
	$(PAGE_MODEL) -e train -P dims=2 -P vqgan_iterations=1350 -P iterations=10000 -P loss=squared
	$(PAGE_MODEL) -e vqgan -P dims=3 -P vqgan_iterations=1400
	$(PAGE_MODEL) -e train -P dims=3 -P vqgan_iterations=1400 -P precision=bf16 -P iterations=8000 -P batch_size=16 -P loss=squared

# The tables and figures of docs/study.md, anew from the study that is kept in benchmarks/measured/study.
study-page: $(READY)
	$(BIN)/python -m benchmarks.study_page

# The long ones beside each other, for each waits now and then: for a server, for packages.
test: $(READY) services style
	$(MAKE) -j3 types test-some-versions test-all-here

test-all-here: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/pytest -m "$$($(BIN)/python tests/available_markers.py)"

test-some-versions: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.versions.environments oldest newest skinny

# The plugin beside each MLflow of tests/versions, in environments of their own.
test-versions: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.versions.environments

# The server and the browser that some tests need, where Debian's packages may be installed; else
# those tests are left out.
services:
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && ! command -v pg_ctlcluster >/dev/null; then \
	  apt-get update -qq && apt-get install -y -qq postgresql >/dev/null \
	  || echo "PostgreSQL could not be installed: its tests are left out."; fi
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && ! command -v chromium >/dev/null; then \
	  apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium >/dev/null \
	  || echo "Chromium could not be installed: its tests are left out."; fi

# The pictures of docs/pictures, taken anew by the tests of the pages that they show.
screenshots: $(READY) services
	OMP_NUM_THREADS=1 SCREENSHOTS_FOLDER=$(CURDIR)/docs/pictures $(BIN)/pytest -m browser tests/test_pages.py tests/test_registry_page.py

# The pages of docs/ as a site, in site/; a warning is an error. `mkdocs serve` shows it while you write.
site: $(READY)
	$(BIN)/mkdocs build --strict --site-dir site

# What is published: sdist and wheel, in dist/, of the version in mlflow_carbon/__init__.py.
dist: $(READY)
	rm -rf dist
	$(BIN)/python -m build --outdir dist
	$(BIN)/twine check --strict dist/*

lint: style types

style: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

# torch goes first: the other packages then accept the build that is there. uv needs a tenth of pip's
# time; where it finds no index (it does not read pip's settings), pip does it all.
$(READY): setup.cfg constraints.txt
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "Python 3.11 is needed: make PYTHON=..."'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python $(WANTED) \
	  || $(BIN)/python -m pip install --quiet $(WANTED)
	touch $@

clean:
	rm -rf $(VENV) build dist site *.egg-info .mypy_cache .pytest_cache .ruff_cache
