# make demo: set up, then train, merge and compare on built-in street scenes.
# make test: set up, then run the tests.
VENV := .venv
PYTHON ?= python3
READY := $(VENV)/.ready
OUTPUT ?= demo

.PHONY: demo test check clean

demo: $(READY)
	$(VENV)/bin/revt demo --output $(OUTPUT) --overwrite

test: $(READY)
	$(VENV)/bin/python -m pytest -n 2

check: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

# torch by itself and first: an unpinned torch would bring gigabytes of CUDA.
$(READY): setup.cfg pyproject.toml constraints.txt
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
		$$(grep '^torch==' constraints.txt)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
		-c constraints.txt -e '.[dev]'
	touch $(READY)

clean:
	rm -rf $(VENV) $(OUTPUT)
