# onnxcam. `make help` lists the targets; set-up happens by itself, once, in .venv.

# Tried in this order; the first that is Python 3.11 or newer and can make environments is taken.
PYTHON ?= python3.13 python3.12 python3.11 python3 python
# More or other options for pytest: make test PYTEST_ARGS="-k diff"
PYTEST_ARGS ?= -q -n 2

BIN   := .venv/bin
READY := .venv/.ready

.DEFAULT_GOAL := help
.PHONY: help demo test lint types check bench format wheel clean distclean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' Makefile

demo: $(READY) ## explain the demo picture with the demo model; the results go to out/
	$(BIN)/onnxcam demo --force --to out

test: $(READY) ## run the tests
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(READY) ## check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY) ## check types
	$(BIN)/mypy

check: lint types test ## lint, types and test

bench: $(READY) ## measure speed
	$(BIN)/python tools/bench.py $(BENCH_ARGS)

format: $(READY) ## bring the sources into style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

wheel: $(READY) ## build wheel and source archive into dist/
	$(BIN)/python -m hatchling build -d dist -t sdist -t wheel

clean: ## remove what was built, but keep .venv
	rm -rf build dist out .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -path ./.venv -prune -o -name __pycache__ -type d -exec rm -rf {} +

distclean: clean ## remove .venv too
	rm -rf .venv

# `venv` and `ensurepip` are imported because some systems package them apart from Python.
$(READY): pyproject.toml
	@if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
	    found=; bare=; \
	    for python in $(PYTHON); do \
	        if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
	            if "$$python" -c 'import ensurepip, venv' >/dev/null 2>&1; \
	            then found=$$python; break; else bare=$$python; fi; \
	        fi; \
	    done; \
	    if [ -z "$$found" ] && [ -n "$$bare" ]; then \
	        echo "error: $$bare lacks the modules venv and ensurepip: install them" \
	             "(Debian, Ubuntu: apt install python3-venv), or name another Python:" \
	             "make PYTHON=/path/to/python" >&2; \
	        exit 1; \
	    elif [ -z "$$found" ]; then \
	        echo "error: onnxcam needs Python 3.11 or newer, and none of these is: $(PYTHON)." \
	             "Install one, or name it: make PYTHON=/path/to/python" >&2; \
	        exit 1; \
	    fi; \
	    echo "Making .venv with $$("$$found" --version)"; \
	    "$$found" -m venv --clear .venv; \
	fi
	@echo "Installing onnxcam and its development tools into .venv (once, a few minutes)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@
