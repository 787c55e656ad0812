# `make demo` shows the main job, `make test` runs the tests; both set up .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
CODE := workflow scripts tests
RULES := Snakefile workflow/rules/*.smk

export PATH := $(abspath $(BIN)):$(PATH)

.PHONY: demo test check pytest format benchmark clean

demo: $(READY)
	@$(BIN)/python scripts/demo.py

test: check pytest

check: $(READY)
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/snakefmt --check $(RULES)
	$(BIN)/mypy
	$(BIN)/snakemake --lint

pytest: $(READY)
	$(BIN)/pytest

format: $(READY)
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)
	$(BIN)/snakefmt $(RULES)

benchmark: $(READY)
	$(BIN)/pytest --override-ini python_files='bench_*.py' --capture=no tests/benchmarks

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt --editable '.[test]'
	touch $@

clean:
	rm -rf $(VENV) demo
