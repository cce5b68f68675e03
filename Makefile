PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
READY_FOR_SITE := $(VENV)/.ready-for-site

# Handed to pip when the environment is made: PIP_ARGS to every call; TORCH to one that installs PyTorch first and alone,
# which is how to get its small CPU build, make lab TORCH="--index-url ADDRESS". The address is the one that PyTorch's
# page "Start Locally" shows for your system, pip and CPU. Whatever pip finds installed in the right version, it leaves.
PIP_ARGS ?=
TORCH ?=
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet $(PIP_ARGS)

.PHONY: book lab site epub check test help export store bench mutations clean

help:  ## list what make can do here
	@grep -E '^[a-z]+:.*##' Makefile | sed -E 's/:[^#]*## /\t/' | expand -t 10

book: $(READY)  ## run every chapter in order and show a table of headlines
	$(BIN)/python tools/book.py

lab: $(READY)  ## open the chapters in JupyterLab, in copies of your own: my_notebooks/
	JUPYTER_PREFER_ENV_PATH=1 $(BIN)/python tools/lab.py $(LAB_ARGS)

site: $(READY_FOR_SITE)  ## build the web edition from the stored notebooks: build/site/html/index.html
	$(BIN)/python -m tools.website $(SITE_ARGS)

epub: $(READY_FOR_SITE)  ## build the book as one file for e-readers: build/site/llmbook.epub
	$(BIN)/python -m tools.website --epub $(SITE_ARGS)

# Two files at a time with one thread each take 60 % of the time of one after the other with two threads.
# glibc hands freed blocks of megabytes back to Linux at once, and each batch then waits for new ones; it may keep
# them here, which makes a forward pass of the larger models about a tenth faster.
check test: export OMP_NUM_THREADS = 1
check test: export MALLOC_MMAP_THRESHOLD_ = 4294967296
check test: export MALLOC_TRIM_THRESHOLD_ = 4294967296
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

check: $(READY)  ## run the fast tests, for every change: without notebooks, pages and several processes
	$(PYTEST) tests -m "not slow and not book and not team and not gpu"

test: $(READY_FOR_SITE)  ## run all tests and every notebook, outputs compared
	$(PYTEST)

mutations: $(READY)  ## for authors: break the package on purpose, line by line, and see which tests notice (slow)
	$(BIN)/python -m tests.mutations --jobs 2

export: $(READY)  ## for authors: write llmbook/ from the notebooks
	$(BIN)/python tools/export.py

store: $(READY)  ## for authors: run the notebooks (NB="..." for some) and keep their outputs
	$(BIN)/python tools/book.py --store $(NB)

bench: $(READY)  ## speed beside other implementations, as a table, on a quiet machine (ONLY="speed bpe" for some)
	$(BIN)/python -m tests.benchmarks.table $(addprefix --only ,$(ONLY))

clean:  ## remove the virtual environment and what was built
	rm -rf $(VENV) build

# The environment is brought up to date whenever the list of versions changes.
$(READY): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(not (3, 10) <= v <= (3, 13) and f"Python 3.10 to 3.13 is needed, $(PYTHON) is {v[0]}.{v[1]}: make PYTHON=python3.12 ...")'
	@echo "Setting up $(VENV): a few minutes, once. It takes 2 GB of disk, 6 GB with CUDA (see README)."
	$(PYTHON) -m venv $(VENV)
	@# pip gives up soon where that address is out of reach, and says so
	$(if $(strip $(TORCH)),$(PIP) --retries 1 --timeout 20 $(TORCH) $(shell grep -E '^torch==' requirements.txt))
	$(PIP) -r requirements.txt
	@touch $@

# What the site needs comes only with the site and its tests; `make lab` and `make book` do without.
$(READY_FOR_SITE): $(READY) docs/requirements.txt
	$(PIP) -r docs/requirements.txt
	@touch $@
