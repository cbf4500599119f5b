# Every target does the set-up it needs; a second call starts at once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp
# uv, not pip: it takes the registry's torch and torchvision, which belong together, and compiles bytecode
# (every later start is twice as fast).
UV := UV_COMPILE_BYTECODE=1 $(BIN)/uv pip install --python $(BIN)/python
.DEFAULT_GOAL := help
.PHONY: help setup train test kills bench check format lock clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 16

setup: $(STAMP)  ## create .venv with exactly the locked packages
$(STAMP): requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(UV) --require-hashes -r requirements.lock
	$(UV) --no-deps -e .
	touch $@

train: $(STAMP)  ## train the default model on the embedded digits: about three minutes on two cores
	$(BIN)/python train.py

# One thread per process: two on busy cores are many times slower.
test: $(STAMP)  ## run all tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

kills: $(STAMP)  ## kill runs 100 times at every kind of moment; each must end bitwise as one never killed: half an hour
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.kills

bench: $(STAMP)  ## time everything beside the peers: under ten minutes on an idle machine; results in benchmarks/results/
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.run

check: $(STAMP)  ## lint, types and the architecture test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/test_architecture.py

format: $(STAMP)  ## rewrite the code in the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: $(STAMP)  ## resolve requirements.lock anew
	$(BIN)/uv pip compile pyproject.toml --extra dev --extra sweeps --extra bench --universal --generate-hashes --no-annotate --no-header \
	    --python-version 3.11 --upgrade --quiet -o requirements.lock

clean:  ## remove .venv and caches; outputs/ is kept
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache src/*.egg-info
