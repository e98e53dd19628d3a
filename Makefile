# Every target runs the set-up it needs, which does nothing if it is up to date.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON := .venv/bin/python
export PYTHONDONTWRITEBYTECODE := 1
TEST := OMP_NUM_THREADS=1 $(PYTHON) -m pytest -n 2 --dist loadgroup

.PHONY: help setup system demo study check test docs format clean

help: ## list the targets
	@grep -hE '^[a-z]+:.*##' Makefile | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 18

setup: ## create .venv with all dependencies
	@tools/setup/install.sh

system: setup
	@tools/setup/system_packages.sh

demo: setup ## pretrain, convert, fine-tune detectors and report on the embedded digits: about 16 minutes on 2 cores
	@$(PYTHON) -m tools.chain submit configs/chains/digits.yaml

study: setup ## the demo with six methods, two ResNets and two fine-tunings each: about 3 more hours (estimate)
	@$(PYTHON) -m tools.chain submit configs/chains/digits_study.yaml

check: setup ## lint, type-check, check import contracts, run the fast tests: 3 minutes
	@.venv/bin/ruff format --check .
	@.venv/bin/ruff check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports --no-cache
	@$(TEST) -m "not slow and not slurm" -q

test: system ## run all tests, including those on a real Slurm: 25 minutes
	@$(TEST)

docs: setup ## build the documentation into build/docs
	@NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict --quiet

format: setup ## format the code and apply ruff's fixes
	@.venv/bin/ruff format .
	@.venv/bin/ruff check --fix .

clean: ## remove caches of tests and linters; keeps runs/ and .venv
	@rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find pretrain transfer tools tests -name __pycache__ -prune -exec rm -rf {} +
