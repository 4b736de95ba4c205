# Every target starts from a bare Python: the environment is a prerequisite like any other file.
#
#   make demo    generate a tag dataset, subsample it, fit DOM2, evaluate, write a report
#   make test    the test suite
#
# Another interpreter: make PYTHON=python3.12 test

PYTHON ?= $(shell python3.11 -c '' 2>/dev/null && echo python3.11 || echo python3)
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.stamp
# mypy looks packages up by folder name, and two of ours are imported under another one.
TYPES  := build/types
OLDEST := build/oldest

.PHONY: venv demo test test-slow test-oldest bench lint types docs wheel clean

venv: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[dev]"
	touch $@

# Its own dataset ids and its own folder, so that --force never replaces a dataset you made. Small
# minibatches, because a minute on two cores is worth more as many updates than as few large ones. One thread:
# two are no quicker on so little, and many times slower where another program computes.
DEMO_ROOT := $(or $(MINARI_DATASETS_PATH),$(CURDIR)/demo/datasets)
DEMO      := MINARI_DATASETS_PATH="$(DEMO_ROOT)" $(BIN)

demo: $(STAMP)
	$(DEMO)/dom2data generate --env tag --quality medium --steps 100000 --out dom2/tag-demo-v0 --force
	$(DEMO)/dom2data subsample --fraction 0.5 --force
	$(DEMO)/dom2 fit --dataset tag-demo-50pct --updates 1500 --batch-size 64 --threads 1 --out demo/run --force
	$(DEMO)/dom2 evaluate demo/run --episodes 200
	$(DEMO)/dom2 report demo/run

# One thread each: two test processes share the cores, and torch's pool would fight over them. Files in the
# order of tests/conftest.py, the longest first.
test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m slow

# The suite with exactly the lowest version that pyproject.toml allows of everything that is used at run time.
test-oldest:
	test -x $(OLDEST)/bin/python || $(PYTHON) -m venv $(OLDEST)
	sed -nE '/^dependencies/,/^dev =/s/.*"([a-z0-9-]+)>=([0-9.]+).*/\1==\2/p' pyproject.toml > $(OLDEST)/constraints.txt
	$(OLDEST)/bin/python -m pip install -q -c $(OLDEST)/constraints.txt -e ".[dev]"
	OMP_NUM_THREADS=1 $(OLDEST)/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

bench: $(STAMP)
	$(BIN)/python -m pytest -m benchmark tests/benchmarks

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	mkdir -p $(TYPES)
	ln -sfn ../../policies $(TYPES)/dom2_policies
	ln -sfn ../../cli $(TYPES)/dom2_cli
	ln -sfn ../../dom2 $(TYPES)/dom2
	ln -sfn ../../dom2data $(TYPES)/dom2data
	cd $(TYPES) && MYPYPATH=. ../../$(BIN)/mypy --config-file ../../pyproject.toml \
	    -p dom2_policies -p dom2data -p dom2 -p dom2_cli

docs: $(STAMP)
	$(BIN)/sphinx-build -q -W --keep-going -b html docs docs/_build/html

wheel: $(STAMP)
	rm -rf dist build/lib build/bdist.*
	$(BIN)/python -m build

clean:
	rm -rf build dist demo docs/_build *.egg-info $(VENV)
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
