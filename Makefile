# The two commands are `make demo` and `make test`; both install what they need into .venv first.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PACKAGES := modelcache controller agent local cli tests
# Without pip's own index settings the lock decides what is installed: every file must match one of its hashes.
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: install olah demo test lint types unit format lock proto crd docs clean

# A stamp named by the content of everything that decides what is installed: a second run starts at once, and a
# change of any lock installs again.
STAMP := $(VENV)/installed-$(shell cat requirements/*.lock pyproject.toml | sha256sum | cut -c1-16)

install: $(STAMP)

$(STAMP):
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --require-hashes -r requirements/dev.lock
	$(PIP) install --quiet --require-hashes --no-deps -r requirements/demo.lock
	$(PIP) install --quiet --no-deps --no-build-isolation -e .
	rm -f $(VENV)/installed-*
	touch $@

# A server that tests talk to, and whose dependencies must not mix with ours: an environment of its own.
OLAH := $(VENV)/olah/installed-$(shell sha256sum requirements/olah.lock | cut -c1-16)

olah: $(OLAH)

$(OLAH): | install
	test -x $(VENV)/olah/bin/python || $(BIN)/python -m venv $(VENV)/olah
	$(VENV)/olah/bin/python -m pip --disable-pip-version-check install --quiet --require-hashes -r requirements/olah.lock
	rm -f $(VENV)/olah/installed-*
	touch $@

demo: install
	$(BIN)/python -m cli.demo

test: lint types unit

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/buf lint
	$(BIN)/python -m modelcache.rpc.generate --check
	$(BIN)/python -m cli.reference --check

types: install
	$(BIN)/mypy

unit: install olah
	$(BIN)/pytest -n 2 --dist worksteal

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Writes the locks anew from pyproject.toml. uv is only needed here.
lock: install
	$(PIP) install --quiet uv==0.13.9
	$(BIN)/uv pip compile --upgrade --universal --python-version 3.11 --generate-hashes --no-header -q \
		-o requirements/runtime.lock pyproject.toml
	$(BIN)/uv pip compile --upgrade --universal --python-version 3.11 --generate-hashes --no-header -q --extra dev \
		-o requirements/dev.lock pyproject.toml
	$(BIN)/uv pip compile --upgrade --no-deps --generate-hashes --no-header -q \
		-o requirements/demo.lock requirements/demo.in
	$(BIN)/uv pip compile --upgrade --universal --python-version 3.11 --generate-hashes --no-header -q \
		-o requirements/build.lock requirements/build.in
	$(BIN)/uv pip compile --upgrade --universal --python-version 3.11 --generate-hashes --no-header -q \
		-o requirements/olah.lock requirements/olah.in

proto: install
	$(BIN)/python -m modelcache.rpc.generate

docs: install
	$(BIN)/python -m cli.reference

crd: install
	$(BIN)/python -m modelcache.api.crd > manifests/crd/dynamomodels.nvidia.com.yaml

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache
