# `make demo` shows the main job, `make test` runs the tests; both set up .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
CODE := workflow scripts tests
RULES := Snakefile workflow/Snakefile workflow/rules/*.smk
ROWS := $(abspath $(VENV))/bench.jsonl
PYTEST := $(BIN)/pytest --numprocesses auto --dist loadgroup
MINUTES := 60
FUZZ := tests/fuzz

export PATH := $(abspath $(BIN)):$(PATH)

.PHONY: demo test quick check pytest fuzz chaos format bench clean help

demo: $(READY)  ## convert sample images from a local registry: what it is all about
	@$(BIN)/python scripts/demo.py

test: check pytest  ## all checks and all tests; README says which Debian packages they want

quick: $(READY)  ## the unit tests alone
	$(PYTEST) tests/unit

check: $(READY)  ## linters, formats, types
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/snakefmt --check $(RULES)
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/snakemake --lint --directory $(VENV)/lint --config recipe=$(CURDIR)/tests/support/recipe.yaml

pytest: $(READY)  ## all tests without the checks
	$(PYTEST)

fuzz: $(READY)  ## hostile input for MINUTES=60, in rounds that are never the same
	@end=$$(( $$(date +%s) + 60 * $(MINUTES) )); while [ $$(date +%s) -lt $$end ]; do \
		DUCCMAKE_EXAMPLES=1000 $(PYTEST) --quiet $(FUZZ) || exit 1; done

chaos: $(READY)  ## conversions while things break at random; SEED= ROUNDS= MINUTES= BACKEND=
	PYTHONPATH=$(CURDIR)/workflow:$(CURDIR)/tests $(BIN)/python -m chaos \
		$(if $(SEED),--seed $(SEED)) $(if $(WORLD),--world $(WORLD)) \
		$(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(MINUTES),--minutes $(MINUTES)) \
		$(foreach backend,$(BACKEND),--backend $(backend))

format: $(READY)  ## mend what the linters and formatters can mend
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)
	$(BIN)/snakefmt $(RULES)

bench: $(READY)  ## comparisons with other programs, in a table; nothing else should run beside
	@rm -f $(ROWS)
	@status=0; DUCCMAKE_BENCHMARK_ROWS=$(ROWS) $(BIN)/pytest --override-ini \
		python_files='bench_*.py' --capture=no tests/benchmarks || status=$$?; \
		test ! -e $(ROWS) || $(BIN)/python tests/benchmarks/rows.py $(ROWS); exit $$status

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "duccmake needs \
	Python 3.11 or newer, and $(PYTHON) is %d.%d: name one with make PYTHON=python3.11" \
	% sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt --editable '.[test]'
	touch $@

clean:  ## remove the environment and what the demo left
	rm -rf $(VENV) demo

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*  ## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12
