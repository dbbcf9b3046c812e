# Three commands for a fresh clone: `make demo`, `make live` and `make test`. All use .venv, made from the project's own
# files; each installs only what it needs.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT ?= demo.mp4

.PHONY: demo live test docs dist install clean

demo: $(VENV)/.installed-torch,video
	$(BIN)/ms-stream demo --tour --sheet $(basename $(OUT)).jpg -o $(OUT)

live: $(VENV)/.installed-cpu,export,serve
	$(BIN)/ms-export demo
	$(BIN)/ms-serve demo --open

test: $(VENV)/.installed-dev
	$(BIN)/python scripts/test.py

docs: $(VENV)/.installed-docs
	$(BIN)/python -m scripts.docs

dist: $(VENV)/.installed-dev
	$(BIN)/python -m build --outdir dist .

install: $(VENV)/.installed-dev

$(VENV)/.installed-%: pyproject.toml scripts/install.py
	$(PYTHON) scripts/install.py $(VENV) $*
	touch $@

clean:
	rm -rf $(VENV) build dist
