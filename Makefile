# Every target makes or updates .venv with just what it needs; nothing else is to be done by hand.
#
#   make chat ARGS="--port 0 --workers 2"     PYTHON=python3.12 chooses the interpreter
#
# pyproject.toml says what is needed; a stamp in .venv remembers what has been installed since it
# was last changed.

PYTHON ?= python3
ARGS ?=
SECONDS ?= 300
SEED ?= 1
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help chat test lab check bench profile notebooks book autobahn soak

help:  ## show this
	@echo "make chat    run the chat on http://127.0.0.1:8000 (ARGS=\"--port 0\" for another port)"
	@echo "make lab     open the course in JupyterLab"
	@echo "make test    run all tests, the notebooks included"
	@echo "make bench   measure beside Daphne, Uvicorn, … (ARGS=\"--case echo --size 0.2\")"
	@echo "make profile CASE=echo   a flame graph of a case of the benchmark"
	@echo "make check   lint, formatting, types"
	@echo "make book    the course as pages to read, in build/book"
	@echo "make soak    minutes of chat while everything is killed at random (SECONDS=600 SEED=7)"
	@echo "make autobahn  its fuzzing client against thyme (needs a Python 2.7; ARGS='\"9.*\"')"
	@echo "make notebooks   execute the course anew and keep its outputs (CHAPTERS=00_tour.ipynb)"

chat: .venv/.has-chat
	@exec $(BIN)/python thyme/run.py $(ARGS)

lab: .venv/.has-lab
	@exec $(BIN)/jupyter lab $(ARGS) notebooks/

# How pytest and nbval are called is in pyproject.toml; both run even when the first fails.
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

# The peers have an environment of their own: channels_redis needs an older redis.
bench: .venv/.has-bench .venv-peers/.has-peers
	@$(BIN)/python -m bench $(if $(BASE),--base $(BASE)) $(ARGS)

profile: .venv/.has-bench
	@$(BIN)/python -m bench.profile $(CASE) $(ARGS)

.venv-peers/.has-peers: bench/peers.txt
	@echo "Installing the peers …"
	@$(PYTHON) -m venv .venv-peers
	@.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check -r bench/peers.txt
	@touch $@

.venv/.has-chat: EXTRAS =
.venv/.has-lab: EXTRAS = [lab]
.venv/.has-test: EXTRAS = [test]
.venv/.has-check: EXTRAS = [check]
.venv/.has-bench: EXTRAS = [bench]

.venv/.has-%: pyproject.toml | .venv/bin/python
	@echo "Installing what \"make $*\" needs …"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".$(EXTRAS)"
	@touch $@

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "$(PYTHON) is missing or older than 3.11; try: make PYTHON=python3.12 …" >&2; exit 1; }
	@$(PYTHON) -m venv .venv || { rm -rf .venv; \
	  echo "$(PYTHON) cannot make an environment; on Debian: apt install python3-venv" >&2; exit 1; }
