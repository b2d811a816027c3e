# make demo: set up, then train, merge and compare on built-in street scenes.
# make test: set up, then run the tests.
# make docs: set up, then build the documentation into site/.
VENV := .venv
PYTHON ?= python3
READY := $(VENV)/.ready
OUTPUT ?= demo
# The variable keeps a notice of Material for MkDocs away. --quiet would take --strict its warnings.
MKDOCS = NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict

.PHONY: demo test check docs clean

demo: $(READY)
	$(VENV)/bin/revt demo --output $(OUTPUT) --overwrite

test: $(READY)
	$(VENV)/bin/python -m pytest -n 2

check: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	@site=$$(mktemp -d) && trap 'rm -rf "$$site"' EXIT && \
		{ said=$$($(MKDOCS) --site-dir "$$site" 2>&1) || { echo "$$said"; false; }; }

docs: $(READY)
	$(MKDOCS)
	@echo open site/index.html

# torch by itself and first: an unpinned torch would bring gigabytes of CUDA.
$(READY): setup.cfg pyproject.toml constraints.txt
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
		$$(grep '^torch==' constraints.txt)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
		-c constraints.txt -e '.[dev,docs]'
	touch $(READY)

clean:
	rm -rf $(VENV) $(OUTPUT) site
