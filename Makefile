# Two commands for a fresh clone: `make demo` and `make test`. Both use .venv, made from the project's own files.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT ?= demo.mp4

.PHONY: demo test live install clean

demo: $(VENV)/.installed
	$(BIN)/ms-stream demo --seconds 4 --show-tracks -o $(OUT)

live: $(VENV)/.installed
	$(BIN)/ms-export demo
	$(BIN)/ms-serve demo --open

test: $(VENV)/.installed
	$(BIN)/python scripts/test.py

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml scripts/install.py
	$(PYTHON) scripts/install.py $(VENV)
	touch $@

clean:
	rm -rf $(VENV) build
