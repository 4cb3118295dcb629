# `make test` and `make demo` set everything up on a fresh machine; a second run reuses the environment.

PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready

.PHONY: demo test lint clean

demo: $(READY)
	$(VENV)/bin/volseg demo -o demo
	@if $(VENV)/bin/python -c 'import slicer' 2>/dev/null; then \
	  PYTHONPATH=VolumeSegmantics $(VENV)/bin/python -m VolumeSegmanticsSlicer.scene_demo demo; \
	else \
	  echo 'The second round, through a scene, is left out: the package slicer-core is not installed here.'; \
	fi

test: $(READY)
	$(VENV)/bin/python -m pytest -n logical --maxprocesses 4 --dist loadfile

lint: $(READY)
	$(VENV)/bin/python -m ruff check
	$(VENV)/bin/python -m ruff format --check
	$(VENV)/bin/python -m mypy

clean:
	rm -rf $(VENV) demo build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo 'VolumeSegmantics needs Python 3.10 or newer as $(PYTHON). Name another: make PYTHON=/path/to/python3' >&2; \
	  exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || { \
	  echo '$(PYTHON) cannot make virtual environments. On Debian and Ubuntu: sudo apt install python3-venv' >&2; \
	  exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --upgrade pip
	$(VENV)/bin/python -m pip install -e '.[dev]'
	@touch $@
