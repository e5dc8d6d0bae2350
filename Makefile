# Every target sets itself up in .venv; a machine needs Python 3.11 or later, make and git.
# PIP_ARGS chooses the build of torch: constraints.txt pins what is tested; `make demo PIP_ARGS=` takes the newest of everything.
PYTHON ?= python3
PIP_ARGS ?= -c constraints.txt
OUT ?= runs/main
JOBS ?= 2
BENCHES ?=
BIN := .venv/bin

.PHONY: help setup demo test check docs bench clean
help:
	@echo "make setup   install into .venv"
	@echo "make demo    run the whole study on the miniature and write $(OUT)/report.html"
	@echo "make test    all tests, $(JOBS) at a time, with the coverage of most"
	@echo "make check   lint, types, floors"
	@echo "make docs    run every command the docs show"
	@echo "make bench   be timed beside what it could be written with, in .venv-bench; BENCHES='train --reduced' takes one, with tiny sizes"

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("spillover needs Python 3.11 or later, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -e .
	touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -e '.[dev]'
	touch $@

setup: .venv/installed-dev

demo: .venv/installed
	$(BIN)/spillover run --out $(OUT)

test: .venv/installed-dev
	$(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder --cov --cov-report=term
	$(BIN)/python tests/coverage_of_rooms.py

check: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports

docs: .venv/installed-dev
	$(BIN)/python -m pytest tests/test_docs.py

# peers of the start-up bench that do not fit into one environment have their own, and are left out where they cannot be had
.venv-bench/installed: pyproject.toml bench/constraints.txt bench/requirements.txt bench/peers.txt
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/python -m pip install --quiet --disable-pip-version-check -c bench/constraints.txt -e . -r bench/requirements.txt
	for peer in inspect_ai llmcomp; do \
	  $(PYTHON) -m venv .venv-bench/peers/$$peer && \
	  .venv-bench/peers/$$peer/bin/python -m pip install --quiet --disable-pip-version-check -c bench/peers.txt $$peer || rm -rf .venv-bench/peers/$$peer; \
	done
	touch $@

bench: .venv-bench/installed
	.venv-bench/bin/python -m bench $(BENCHES)
	.venv-bench/bin/python -m bench.page

clean:
	rm -rf .venv .venv-bench build dist .pytest_cache .ruff_cache .coverage
