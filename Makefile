# make demo: environment, installation, pictures from the shipped model.   make test: everything that CI runs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 2

.PHONY: demo test lint docs package faults fuzz clean

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet torch==2.13.0
	$(BIN)/pip install --quiet -c constraints.txt -e ".[dev]"
	touch $@

demo: $(VENV)/.installed
	$(BIN)/genrefine generate --num-images 2 --seed 1 --adaptive -o demo.png --class-label \
		smileys-emotion/noto animals-nature/fluent food-drink/twemoji flags/noto \
		travel-places/fluent symbols/twemoji objects/noto people-body/fluent
	@echo "The pictures are in $(CURDIR)/demo.png"

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

package: $(VENV)/.installed
	$(BIN)/python scripts/check_package.py

fuzz: $(VENV)/.installed
	GENREFINE_FUZZ=50 $(BIN)/python -m pytest --timeout 7200 tests/faults/test_fuzz.py

faults: $(VENV)/.installed
	GENREFINE_FAULTS=12 $(BIN)/python -m pytest --timeout 7200 tests/faults/test_faults.py

test: lint docs
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis demo.png
