# What one types while working on resift, in an active virtual environment with Python 3.11 or newer. `make` lists it.

PYTHON ?= python
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup hooks test slow lint format check full docs bench lock dist

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' Makefile

setup:  ## installs what the tests and checks need, PyTorch included, and this checkout in place
	$(PYTHON) -m pip install -c constraints/test.txt -e '.[test,check]'

hooks:  ## installs pre-commit, and its hooks into this checkout
	$(PYTHON) -m pip install -c constraints/test.txt pre-commit
	$(PYTHON) -m pre_commit install

test:  ## the tests that are not slow; ARGS='tests/engine/test_plans.py -k parse' for some
	$(PYTHON) -m pytest $(ARGS)

slow:  ## the slow tests; ARGS as above
	$(PYTHON) -m pytest -m slow $(ARGS)

lint:  ## lint, types, import contracts and names
	bash .ci/lint

format:  ## mends what ruff can mend
	ruff check --fix .
	ruff format .

check:  ## everything that a change must pass, in fresh virtual environments
	bash .ci/run

full:  ## and everything that takes longer still
	bash .ci/full

docs:  ## the site, in build/docs
	$(PYTHON) -m pip install -c constraints/docs.txt -e '.[docs]'
	$(PYTHON) -m sphinx -W --keep-going -b html docs build/docs

bench:  ## lists the benchmarks; ARGS='compare --list' runs one
	$(PYTHON) -m benchmarks $(ARGS)

lock:  ## writes constraints/ anew; ARGS='test docs' for some
	bash constraints/lock $(ARGS)

dist:  ## wheel and sdist in dist/, built twice and checked: a release's dry run
	bash .ci/dist
