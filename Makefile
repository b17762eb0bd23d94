# Every target makes its own virtual environment when there is none; nothing else needs to be typed first.
#   make demo            the main job, with progress; ARGS="picture --image MY.png" for your own picture
#   make test            tests, with coverage; ARGS="-k parameters" for some of them
#   make lint types docs the other checks of .ci/run
#   make bench           the measured tables of the documentation, again
#   make all             everything that .ci/run checks
# PYTHON=/path/to/python chooses the interpreter (3.11 or newer); VENV=folder chooses where the environment is.

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
BENCHMARKS ?= $(wildcard benchmarks/[a-z]*.py)

RUN := $(VENV)/bin/python
STAMP := $(VENV)/.zograd-installed

# An environment that is active around us must not leak into ours.
unexport PYTHONPATH PYTHONHOME VIRTUAL_ENV PYTHONSTARTUP PIP_TARGET PIP_PREFIX PIP_USER PIP_REQUIRE_VIRTUALENV
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PYTHONUTF8 := 1

.DEFAULT_GOAL := all
.PHONY: all demo test lint types docs pictures bench constraints clean

all: lint types test docs

# Rebuilt when the configuration or a pinned version changes.
$(STAMP): pyproject.toml constraints.txt
	@good() { "$$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }; \
	if ! good $(RUN); then \
	  for python in $(PYTHON) python3.13 python3.12 python3.11 python; do \
	    if good "$$python"; then found="$$python"; break; fi; \
	  done; \
	  if [ -z "$$found" ]; then \
	    echo "zograd needs Python 3.11 or newer with its venv module; none was found." >&2; \
	    echo "'$(PYTHON)' is $$($(PYTHON) --version 2>&1 || echo 'not there')." >&2; \
	    echo "Install one (on Debian: python3 and python3-venv), or name one: make PYTHON=/path/to/python3.12" >&2; \
	    exit 1; \
	  fi; \
	  echo "making $(VENV) with $$found: $$("$$found" --version)"; \
	  "$$found" -m venv --clear $(VENV); \
	fi
	PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt \
	  $(RUN) -m pip install --quiet -c constraints.txt -e ".[dev]"
	@touch $@

demo: $(STAMP)
	$(RUN) -m zograd demo $(ARGS)

# The report's total counts lines and branches together; the branches alone must hold as well.
# A part of the tests (ARGS given) is not asked to cover everything.
test: $(STAMP)
ifeq ($(strip $(ARGS)),)
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n auto --maxprocesses=4 --durations=10 --cov --cov-report=term --cov-fail-under=95
	@$(RUN) -m coverage json -q -o .coverage.json
	@$(RUN) -c 'import json, sys; totals = json.load(open(".coverage.json"))["totals"]; \
	  share = 100 * totals["covered_branches"] / max(1, totals["num_branches"]); \
	  print("branches covered: %.1f %% of %d" % (share, totals["num_branches"])); \
	  sys.exit("at least 95 % of the branches must be covered" if share < 95 else 0)'
else
	OMP_NUM_THREADS=1 $(RUN) -m pytest $(ARGS)
endif

lint: $(STAMP)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

types: $(STAMP)
	$(RUN) -m mypy

docs: $(STAMP)
	$(RUN) -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

# The drawings of the explanation pages, which are committed.
pictures: $(STAMP)
	for script in docs/scripts/[a-z]*.py; do echo "$$script"; $(RUN) "$$script" || exit 1; done

bench: $(STAMP)
	$(RUN) -m pip install --quiet -c constraints.txt -e ".[dev,bench]"
	for script in $(BENCHMARKS); do echo "$$script"; $(RUN) "$$script" $(ARGS) || exit 1; done

# Pins every package that any extra brings, on any platform (colorama is for Windows), at the newest version of today.
# torch's own builds pin their GPU packages themselves.
constraints:
	$(PYTHON) -m venv --clear .venv-constraints
	.venv-constraints/bin/python -m pip install --quiet -e ".[dev,bench]" hatchling editables colorama
	.venv-constraints/bin/python -m pip freeze --all --exclude-editable \
	  | sed -e '/^pip==/d' -e 's/+[A-Za-z0-9.]*$$//' | LC_ALL=C sort -f > constraints.txt
	rm -rf .venv-constraints

clean:
	rm -rf $(VENV) .venv-constraints docs/_build .coverage* .mypy_cache .ruff_cache .pytest_cache .hypothesis
