# make demo: set up, then train, merge and compare on built-in street scenes.
# make test: set up, then run the tests, but for the slow ones.
# make test-slow: set up, then run these: whole experiments, the README's session, a stand-in accelerator.
# make test-numeric: set up, then compare numbers again, as older processors compute them.
# make test-one-thread: set up, then compare numbers again, computed by one thread.
# make renew-texts: set up, then rewrite the tables, page and card that tests expect; fails if one has changed.
# make test-min: set up the lowest allowed versions, then try the main commands with them.
# make docs: set up, then build the documentation into site/.
# make docs-serve: set up, then serve the documentation, with its search, at http://127.0.0.1:8000.
# make docs-test: set up, then run the tutorials; RENEW=1 keeps their new outputs.
VENV := .venv
PYTHON ?= python3
READY := $(VENV)/.ready
PIP := $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check
OUTPUT ?= demo
# "not tutorial" runs the slow ones with the others.
TESTS ?= not slow and not tutorial
# The variable keeps a notice of Material for MkDocs away. --quiet would take --strict its warnings.
MKDOCS = NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs

# An x86 processor of 2008: libraries choose their code by what the processor knows.
OLD_PROCESSOR := ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 \
	OPENCV_CPU_DISABLE=AVX512-SKX,AVX2 \
	NPY_DISABLE_CPU_FEATURES="X86_V3 X86_V4 AVX512_ICL AVX512_SPR"
ONE_THREAD := OMP_NUM_THREADS=1 OPENCV_FOR_THREADS_NUM=1
# Threads that wait for a core of the other tests would spin; a file's fixtures are made once.
NUMERIC = OMP_WAIT_POLICY=passive $(VENV)/bin/python -m pytest -n 2 --dist loadfile -m numeric

MIN_VENV := .venv-min
MIN_READY := $(MIN_VENV)/.ready
MIN_TESTS := tests/cli/test_cli.py tests/config/test_recipe.py tests/prediction tests/training/test_train.py \
	tests/evaluation/test_evaluate_command.py tests/merging/test_merge_command.py \
	tests/hub/test_push.py tests/data_tools/test_data_commands.py

.PHONY: demo test test-slow test-numeric test-one-thread renew-texts test-min check docs docs-serve \
	docs-test clean

demo: $(READY)
	$(VENV)/bin/revt demo --output $(OUTPUT) --overwrite

test: $(READY)
	$(VENV)/bin/python -m pytest -n 2 -m "$(TESTS)"

test-slow: $(READY)
	$(VENV)/bin/python -m pytest -n 2 -m slow

test-numeric: $(READY)
	$(OLD_PROCESSOR) OMP_NUM_THREADS=2 $(NUMERIC)

test-one-thread: $(READY)
	$(ONE_THREAD) $(NUMERIC)

renew-texts: $(READY)
	RENEW=1 $(VENV)/bin/python -m pytest -q tests/results tests/hub/test_cards.py

test-min: $(MIN_READY)
	$(MIN_VENV)/bin/python -m pytest -n 2 $(MIN_TESTS)

check: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	@site=$$(mktemp -d) && trap 'rm -rf "$$site"' EXIT && \
		{ said=$$($(MKDOCS) build --strict --site-dir "$$site" 2>&1) || { echo "$$said"; false; }; }

docs: $(READY)
	$(MKDOCS) build --strict
	@echo open site/index.html

docs-serve: $(READY)
	$(MKDOCS) serve --strict

docs-test: $(READY)
	$(PIP) -c constraints.txt -e '.[tutorials]'
	$(VENV)/bin/python -m pytest -m tutorial

# torch by itself and first: an unpinned torch would bring gigabytes of CUDA.
$(READY): setup.cfg pyproject.toml constraints.txt
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(PIP) $$(grep '^torch==' constraints.txt)
	$(PIP) -c constraints.txt -e '.[dev,docs]'
	touch $(READY)

$(MIN_READY): setup.cfg pyproject.toml constraints-min.txt
	test -x $(MIN_VENV)/bin/python || $(PYTHON) -m venv $(MIN_VENV)
	$(MIN_VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
		$$(grep '^torch==' constraints-min.txt)
	$(MIN_VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
		-c constraints-min.txt -e '.[dev]'
	touch $(MIN_READY)

clean:
	rm -rf $(VENV) $(MIN_VENV) $(OUTPUT) site
