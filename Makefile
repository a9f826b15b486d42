# Everything sets itself up: Python 3.11+, make and a package index are all that is needed.
PYTHON ?= python3
STORE ?= file
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test bench lint types clean prove prove-model prove-machine prove-interleavings prove-faults prove-powercut \
	prove-kills prove-soak prove-fuzz prove-mutants

# Installed anew when the dependencies change. The package itself is linked, so that edits take effect.
$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "blobstore needs Python 3.11 or newer; set PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=23.1'
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

# On a directory; with STORE=s3 on an object store, against a server that it starts itself.
demo: $(STAMP)
	@PATH="$(CURDIR)/$(BIN):$$PATH" STORE="$(STORE)" bash demo/demo.sh

test: $(STAMP)
	$(BIN)/python -m pytest

bench: $(STAMP)
	$(BIN)/python -m pytest -c benches/pytest.ini benches

# The long profiles behind docs/reliability.md: hours on one core, root and some Debian packages needed, each can be stopped
# and goes on where it was (.reliability/).
prove: prove-model prove-machine prove-interleavings prove-faults prove-powercut prove-kills prove-soak prove-fuzz prove-mutants

prove-machine prove-interleavings: prove-%: $(STAMP)
	$(BIN)/python -m tests.simulation.long_$*

prove-model prove-faults prove-powercut prove-kills prove-soak prove-fuzz prove-mutants: prove-%: $(STAMP)
	$(BIN)/python -m tests.$*.long

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(STAMP)
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
