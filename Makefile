# make run: run Intray here · make test: test it on SQLite · make check: format, lint, types and make test, before a commit
# make test-all: every test, on PostgreSQL too, with browsers, hosts and chaos; .ci/run says what it needs from outside Python
.POSIX:
.SILENT:
.PHONY: run test test-all lint check requirements

PYTHON ?= python3
BIN = .venv/bin
COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --only-binary :all:

run: .venv/run.stamp
	exec $(BIN)/python manage.py run

test: .venv/test.stamp
	exec $(BIN)/python -m pytest

test-all: .venv/test.stamp
	exec $(BIN)/python -m pytest --all

lint: .venv/test.stamp
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

check: lint test

requirements: .venv/test.stamp
	$(COMPILE) requirements.in -o requirements.txt
	$(COMPILE) requirements-dev.in -o requirements-dev.txt

.venv/run.stamp: requirements.txt .venv/created.stamp
	echo "Installing Intray's dependencies into .venv (only once, about 30 seconds) ..."
	$(BIN)/python -m pip install -qq --disable-pip-version-check --require-hashes --only-binary :all: -r requirements.txt
	touch $@

.venv/test.stamp: requirements-dev.txt .venv/created.stamp
	echo "Installing the test dependencies into .venv (only once, about 30 seconds) ..."
	$(BIN)/python -m pip install -qq --disable-pip-version-check --require-hashes --only-binary :all: -r requirements-dev.txt
	touch $@ .venv/run.stamp

.venv/created.stamp:
	command -v $(PYTHON) >/dev/null || { echo "Python 3.11 or newer is required. Install it (Debian: apt-get install python3 python3-venv)."; exit 1; }
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Python 3.11 or newer is required, but $(PYTHON) is older. Install it and run: PYTHON=python3.11 make run"; exit 1; }
	$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
		echo "Python's venv module is missing. Install it (Debian: apt-get install python3-venv)."; exit 1; }
	$(PYTHON) -m venv .venv
	touch $@
