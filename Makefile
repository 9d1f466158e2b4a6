# Each target creates or updates .venv with the packages that it needs; no other step is required.
#
#   make chat ARGS="--port 0 --workers 2"     PYTHON=python3.12 selects the interpreter
#
# The packages are listed in pyproject.toml. A stamp in .venv, newer than that file, means that the
# packages of a target are installed.

PYTHON ?= python3
ARGS ?=
SECONDS ?= 300
SEED ?= 1
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help chat test lab check bench profile notebooks book autobahn soak

help:
	@echo "make chat       run the chat on http://127.0.0.1:8000 (ARGS=\"--port 0\": any free port)"
	@echo "make lab        open the course in JupyterLab"
	@echo "make test       run all tests, including the notebooks"
	@echo "make check      lint, check formatting and types"
	@echo "make bench      compare with Uvicorn, Daphne, … (ARGS=\"--case echo --size 0.2\")"
	@echo "make profile    write flame graphs of a case of the benchmark (CASE=echo)"
	@echo "make soak       run the chat while processes are killed at random (SECONDS=600 SEED=7)"
	@echo "make autobahn   run Autobahn's fuzzing client against thyme (needs Python 2.7; ARGS='\"9.*\"')"
	@echo "make notebooks  execute the notebooks and store their outputs (CHAPTERS=00_tour.ipynb)"
	@echo "make book       build the course as HTML pages in build/book"

chat: .venv/.has-chat
	@exec $(BIN)/python thyme/run.py $(ARGS)

lab: .venv/.has-lab
	@exec $(BIN)/jupyter lab $(ARGS) notebooks/

# The options of pytest and nbval are in pyproject.toml. The notebooks run even if the tests fail.
test: .venv/.has-test
	@$(BIN)/pytest $(ARGS); first=$$?; $(BIN)/pytest --nbval notebooks/ && exit $$first

soak: .venv/.has-test
	@SOAK_SECONDS=$(SECONDS) SOAK_SEED=$(SEED) $(BIN)/pytest -s $(ARGS) tests/system/test_ledger.py

notebooks: .venv/.has-test
	@$(BIN)/python notebooks/execute.py $(CHAPTERS)

book: .venv/.has-lab
	@$(BIN)/python notebooks/book.py $(ARGS)

autobahn: .venv/.has-chat
	@$(BIN)/python tests/oracles/autobahn.py $(ARGS)

check: .venv/.has-check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The servers to compare with are in a separate environment: channels_redis needs an older redis.
bench: .venv/.has-bench .venv-peers/.has-peers
	@$(BIN)/python -m bench $(if $(BASE),--base $(BASE)) $(ARGS)

profile: .venv/.has-bench
	@$(BIN)/python -m bench.profile $(CASE) $(ARGS)

.venv-peers/.has-peers: bench/peers.txt
	@echo "Installing the servers to compare with …"
	@$(PYTHON) -m venv .venv-peers
	@.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check -r bench/peers.txt
	@touch $@

.venv/.has-chat: EXTRAS =
.venv/.has-lab: EXTRAS = [lab]
.venv/.has-test: EXTRAS = [test]
.venv/.has-check: EXTRAS = [check]
.venv/.has-bench: EXTRAS = [bench]

.venv/.has-%: pyproject.toml | .venv/bin/python
	@echo "Installing the packages for \"make $*\" …"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".$(EXTRAS)"
	@touch $@

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "$(PYTHON) is missing or older than 3.11; try: make PYTHON=python3.12 …" >&2; exit 1; }
	@$(PYTHON) -m venv .venv || { rm -rf .venv; \
	  echo "$(PYTHON) cannot create a virtual environment; on Debian: apt install python3-venv" >&2; exit 1; }
