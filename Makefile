# Doors, no logic. `make run` does the main job, `make test` passes the tests; both set everything up.
PYTHON ?= python3
BIN := .venv/bin
ONCE ?=
DATA ?= lampyris-centre
SOURCE ?=
OUT ?= out
OPTIONS ?=
WORKERS ?= 2

.PHONY: run journey test check check-slow bench judges screenshots

run: .venv/run.stamp
	@bash tools/install-viewer.sh $(BIN)/lampyris $(DATA)
	$(BIN)/lampyris up --demo $(if $(ONCE),--once )--data $(DATA) $(OPTIONS)

journey: .venv/run.stamp
	$(BIN)/lampyris journey $(SOURCE) -o $(OUT) --replace $(OPTIONS)

test: check

check: .venv/dev.stamp
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile

check-slow: .venv/dev.stamp
	$(BIN)/python -m pytest -m slow

bench: .venv/bench.stamp
	$(BIN)/python -m bench

screenshots: .venv/bench.stamp
	$(BIN)/python tools/screenshots.py

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/run.stamp: .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[centre]'
	touch $@

.venv/dev.stamp: .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@ .venv/run.stamp

judges: .venv/dev.stamp
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev,judge]'

.venv/bench.stamp: .venv/dev.stamp
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev,bench]'
	touch $@
