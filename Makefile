# `make book` and `make test` need make and Python 3.11 or newer; everything else is installed into .venv.
SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory
.PHONY: book pdf site test test-portable test-oldest test-newest proof test-pages test-peers verdicts lm bench bench-full \
	mutants exercises lab format lock clean distclean help

first_python = $(shell for p in $(1); do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
PYTHON ?= $(call first_python,python3 python3.13 python3.12 python3.11 python)
BIN := .venv/bin
PEERS := .venv-peers/bin
PYTEST := -m pytest --numprocesses auto --maxprocesses 8
# Everything but `checking`, whose catalogue takes most of the time and calculates the least, what judges the tests, and
# the book's extensions.
CORE := --ignore=tests/checking --ignore=tests/test_checking.py --ignore=pgtheory/checking --ignore=tests/test_mutants.py \
	--ignore=tests/test_equations.py --ignore=tests/test_evidence.py --ignore=tests/test_elsewhere.py
# What is about texts, files and processes, and does not calculate.
TEXTS := $(foreach name,bad_input cells checkpoints front_page import_order notation proof public_api ranks repository smollm,\
	--ignore=tests/test_$(name).py)

# One thread in each process: the processes share the cores, and threads that spin while they wait would stall them.
export OMP_NUM_THREADS ?= 1
export OMP_WAIT_POLICY ?= PASSIVE
# The page on the real language model shows what it found once, and computes only where `make lm` or a reader wants it.
export PGTHEORY_SMOLLM ?= read
export JUPYTER_PREFER_ENV_PATH := 1
export PYDEVD_DISABLE_FILE_VALIDATION := 1
export PYTHONNOUSERSITE := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1
unexport PYTHONPATH MPLBACKEND

book: .venv/installed ## Execute the chapters, build the book, check the built pages
	@$(BIN)/python .ci/environment.py
	$(BIN)/python .ci/chapters.py
	rm -rf _build/html _build/.doctrees
	$(BIN)/jupyter-book build . --all -W -n --keep-going
	$(BIN)/python $(PYTEST) tests/book
	@echo "$(CURDIR)/_build/html/index.html"

pdf: .venv/pages-installed ## The built book as one file, typeset by Chromium
	@test -e _build/html/index.html || $(MAKE) book
	$(BIN)/python .ci/pdf.py _build/html _build/pdf/pgtheory.pdf
	@echo "$(CURDIR)/_build/pdf/pgtheory.pdf"

site: ## The built book as a folder for a web server, such as GitHub Pages
	@test -e _build/html/index.html || $(MAKE) book
	@$(BIN)/python .ci/site.py _build/html _build/site

test: .venv/installed ## Formatting, lint, types, unit tests, doctests, every chapter
	@$(BIN)/python .ci/environment.py
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/python $(PYTEST)
	$(BIN)/python .ci/chapters.py

# Of what a machine may do otherwise: instruction set, threads, the order in which libraries add up, no compiled kernels.
test-portable: .venv/installed ## The core suite again, with the plainest instructions and two threads
	ATEN_CPU_CAPABILITY=default MKL_CBWR=COMPATIBLE ONEDNN_MAX_CPU_ISA=SSE41 OMP_NUM_THREADS=2 PGTHEORY_FAST=0 \
		$(BIN)/python $(PYTEST) --maxprocesses 4 $(CORE) $(TEXTS)

test-oldest: PYTHON = $(call first_python,python3.11 python3.12 python3.13)
test-oldest: ## The core suite with the oldest versions that pyproject.toml admits, in .venv-oldest
	@mkdir -p _build && $(PYTHON) .ci/floors.py > _build/floors.txt
	@$(call core,.venv-oldest,--constraint _build/floors.txt)

test-newest: PYTHON = $(call first_python,python3.13 python3.12 python3.11)
test-newest: ## The core suite with the newest versions that pip finds, in .venv-newest
	@$(call core,.venv-newest,)

test-pages: .venv/pages-installed ## The built book in a real browser: layout, mathematics, search, accessibility, weight
	$(BIN)/python -m pytest tests/browser

proof: ## Check the machine-checked proofs, once with Coq and once with its second checker
	@$(require_python)
	@$(PYTHON) proof/check.py

test-peers: .venv-peers/installed ## Comparisons with other libraries, installed beside, into .venv-peers
	$(PEERS)/python $(PYTEST) tests/peers

verdicts: .venv-peers/installed ## Write the page of verdicts on public functions of other libraries, book/verdicts.md
	$(PEERS)/python tests/peers/verdicts.py book/verdicts.md

# One process with all cores, or with so many THREADS, because one model fills them; they sleep while they wait.
lm: THREADED = $(if $(THREADS),OMP_NUM_THREADS=$(THREADS),-u OMP_NUM_THREADS)
lm: .venv/lm-installed ## Fetch a small language model once, test on it, execute its page (RECORD=1 keeps what it found)
	@$(BIN)/python .ci/smollm.py
	env $(THREADED) $(BIN)/python -m pytest tests/lm tests/test_smollm.py tests/test_post_training.py --durations 5
	env $(THREADED) PGTHEORY_SMOLLM=$(if $(RECORD),record,run) \
		$(BIN)/python -m pytest --timeout 2400 --nbmake --nbmake-timeout=1200 book/real_language_model.ipynb

bench: .venv-peers/installed ## Speed against other libraries: the decisive races, with the floors that are promised
	env -u OMP_NUM_THREADS $(PEERS)/python -m benchmarks --strict

BASE ?= 39ea4ad
bench-full: .venv-peers/installed ## Every race, beside the commit BASE, into book/speed.json, which a page of the book shows
	rm -rf _build/base && mkdir -p _build/base
	git archive $(BASE) pgtheory | tar -x -C _build/base && echo $(BASE) > _build/base/COMMIT
	env -u OMP_NUM_THREADS $(PEERS)/python -m benchmarks --full --strict --json book/speed.json

mutants: .venv/mutants-installed ## Change the kernels in one place at a time, and report what no test notices (hours)
	$(BIN)/python .ci/mutants.py $(MUTANTS)

exercises: .venv/installed ## Write a notebook of exercises with blanks for each chapter, for teaching
	@$(BIN)/python .ci/exercises.py

lab: .venv/lab-installed ## Open the chapters in JupyterLab
	env -u PGTHEORY_SMOLLM $(BIN)/jupyter lab --notebook-dir=book

format: .venv/installed ## Format the code and the cells, mend what ruff can mend
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

lock: ## Write constraints.txt anew, from the newest versions that fit together
	@$(require_python)
	rm -rf _build/lock && $(PYTHON) -m venv _build/lock
	_build/lock/bin/pip install --quiet ".[bench,book,dev,lab,lm,mutants,pages,peers,test]"
	_build/lock/bin/python .ci/lock.py > _build/constraints.txt
	mv _build/constraints.txt constraints.txt && rm -rf _build/lock

clean: ## Remove what was built
	rm -rf _build build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find book pgtheory tests benchmarks -name __pycache__ -o -name .ipynb_checkpoints | xargs rm -rf

distclean: clean ## Remove the environments too
	rm -rf .venv .venv-newest .venv-oldest .venv-peers

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | while IFS="$$(printf '\t')" read -r name text; do \
		printf '  make %-13s %s\n' "$$name" "$$text"; done

.venv/installed: pyproject.toml constraints.txt
	@$(call install,.venv,book$(comma)test)

.venv/lab-installed: .venv/installed
	@$(call install,.venv,lab)

.venv/lm-installed: .venv/installed
	@$(call install,.venv,lm)

.venv/mutants-installed: .venv/installed
	@$(call install,.venv,mutants)

.venv/pages-installed: .venv/installed
	@$(call install,.venv,pages)

.venv-peers/installed: pyproject.toml constraints.txt
	@$(call install,.venv-peers,bench$(comma)peers)

comma := ,
require_python = .ci/install "$(PYTHON)" || exit 1
# $(call install,directory,extras): an environment of its own that holds the package, editable, at the locked versions.
install = .ci/install "$(PYTHON)" $(1) "$(2)" && touch $@
# $(call core,directory,options of pip): the core suite in a new environment, with whatever versions pip chooses now.
core = $(require_python); echo "installing .[test] into $(1) (a few minutes)"; $(PYTHON) -m venv --clear $(1) && \
	$(1)/bin/python -m pip install --quiet $(2) --editable ".[test]" && $(1)/bin/python $(PYTEST) $(CORE)
