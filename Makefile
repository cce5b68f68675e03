PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# PyTorch's threads wait for each other by spinning. Where another program wants the same cores, that makes
# a small model's training step take ten times as long; so let them sleep soon. (Used by GNU's OpenMP, on Linux.)
export GOMP_SPINCOUNT ?= 10000

.PHONY: book lab test help export store bench clean

help:  ## list what make can do here
	@grep -E '^[a-z]+:.*##' Makefile | sed -E 's/:[^#]*## /\t/' | expand -t 10

book: $(READY)  ## run every chapter in order and show a table of headlines
	$(BIN)/python tools/book.py

lab: $(READY)  ## open the chapters in JupyterLab
	JUPYTER_PREFER_ENV_PATH=1 $(BIN)/jupyter lab --notebook-dir=. notebooks/$(notdir $(firstword $(sort $(wildcard notebooks/*.ipynb))))

# Two files at a time with one thread each take 60 % of the time of one after the other with two threads. The
# notebooks come first (see pyproject.toml): the longest must not be left to the end.
# glibc hands freed blocks of megabytes back to Linux at once, and each batch then waits for new ones; it may keep
# them here, which makes a forward pass of the larger models about a tenth faster.
test: export MALLOC_MMAP_THRESHOLD_ = 4294967296
test: export MALLOC_TRIM_THRESHOLD_ = 4294967296
test: $(READY)  ## run the unit tests and every notebook, outputs compared
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

export: $(READY)  ## for authors: write llmbook/ from the notebooks
	$(BIN)/python tools/export.py

store: $(READY)  ## for authors: run the notebooks (NB="..." for some) and keep their outputs
	$(BIN)/python tools/book.py --store $(NB)

bench: $(READY)  ## speed beside other implementations, on a quiet machine (slow; not part of test)
	env -u GOMP_SPINCOUNT $(BIN)/python -m tests.benchmarks.speed
	env -u GOMP_SPINCOUNT $(BIN)/python -m tests.benchmarks.open_weights
	$(BIN)/python -m tests.benchmarks.classification --everything 1
	$(BIN)/python -m tests.benchmarks.instructions --unmasked 1
	env -u GOMP_SPINCOUNT $(BIN)/python -m tests.benchmarks.checkpoints
	$(BIN)/python -m tests.benchmarks.token_files

clean:  ## remove the virtual environment and what was built
	rm -rf $(VENV) build

# The environment is made again whenever the list of versions changes.
$(READY): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(not (3, 10) <= v <= (3, 13) and f"Python 3.10 to 3.13 is needed, $(PYTHON) is {v[0]}.{v[1]}: make PYTHON=python3.12 ...")'
	@echo "Setting up $(VENV): a few minutes, once."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -r requirements.txt
	@touch $@
