# Two commands matter: `make compare` runs the comparison, `make test` passes the tests. Both set up .venv first.
PYTHON ?= python3
BIN := .venv/bin
export TF_CPP_MIN_LOG_LEVEL ?= 3
# Notebooks run in their own folder, where a relative path would miss.
absolute = $(shell $(PYTHON) -c 'import os, sys; print(os.path.abspath(os.path.expanduser(sys.argv[1])))' '$(1)')
$(foreach name,CIFAR10_DIR CIFAR10H_COUNTS CIFAR10_LABEL_ERRORS MOBILENET_V2_WEIGHTS CIFAR_COMPARE_MODELS CIFAR_COMPARE_IMAGES,\
  $(if $($(name)),$(eval override export $(name) := $(call absolute,$($(name))))))
.DEFAULT_GOAL := help
.PHONY: help setup compare site demo test train seeds experiments efficiency published bench results lock fuzz clean

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 13

setup: .venv/ready  ## make .venv from requirements.lock where it is missing

.venv/ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v <= (3, 13) else f"Python 3.11 to 3.13 is needed, this is {v[0]}.{v[1]}: call make PYTHON=/path/to/python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --requirement requirements.lock
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

compare: setup  ## verify the weights, measure both models, run the notebooks, write build/report/
	$(BIN)/python scripts/report.py

site: demo compare  ## write build/site/: report, notebooks, docs and the demo as static pages to be served
	rm -rf build/site
	cp -R build/report build/site

demo: setup  ## build the page that classifies in the browser, into build/demo/, and say how to open it
	$(BIN)/python scripts/demo.py

test: setup  ## lint, unit tests, and the notebooks under nbval as they are shown and as a smoke run
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pytest -n 2 --dist loadfile tests
	$(BIN)/pytest -n 2 --dist loadfile --nbval-lax --nbval-cell-timeout 600 notebooks
	CIFAR_COMPARE_MODE=smoke $(BIN)/pytest -n 2 --dist loadfile --nbval-lax --nbval-cell-timeout 600 notebooks

train: setup  ## train the models anew and ship them (hours; resumes where it was interrupted)
	$(BIN)/python scripts/release.py train custom_cnn mobilenet_v2 custom_cnn_robust mobilenet_v2_robust
	$(MAKE) results

seeds: setup  ## train either recipe with two more seeds and note on the cards how far they spread (hours; resumes)
	$(BIN)/python scripts/release.py seeds custom_cnn 1 2
	$(BIN)/python scripts/release.py seeds mobilenet_v2 1 2
	$(BIN)/python scripts/readme.py

experiments: setup  ## try ideas for the CNN one at a time, into docs/experiments.md (hours; goes on where it stopped)
	$(BIN)/python scripts/experiments.py
	$(BIN)/python scripts/readme.py

efficiency: setup  ## train with few images, into results/data_efficiency.csv (hours; goes on where it stopped)
	$(BIN)/python scripts/data_efficiency.py
	$(BIN)/python scripts/figures.py
	$(BIN)/python scripts/readme.py

published: setup  ## train both published networks by their recipes, measured on both splits (four hours; resumes)
	$(BIN)/python scripts/published.py

bench: setup  ## measure how fast the code is on an idle machine, into docs/speed.md (an hour)
	$(BIN)/python scripts/bench.py
	$(BIN)/python scripts/readme.py

results: setup  ## rebuild every derived file: cards, recorded predictions, study, figure, notebook outputs, README and docs
	$(BIN)/python scripts/release.py measure
	$(BIN)/python scripts/study.py
	$(BIN)/python scripts/trucks.py
	$(BIN)/python scripts/figures.py
	$(BIN)/python scripts/report.py --notebooks
	$(BIN)/python scripts/readme.py

fuzz: setup  ## feed 10,000 mutated files to each reader, and 10,000 odd calls to each public function
	FUZZ_CASES=10000 $(BIN)/pytest tests -k "fuzz or mutated"

lock: setup  ## pin the newest versions that pyproject.toml admits
	$(BIN)/pip install --quiet --upgrade --upgrade-strategy eager setuptools wheel --editable ".[test]"
	$(BIN)/pip freeze --all --exclude pip --exclude-editable > .venv/lock
	(echo '# Exact versions for Python 3.11 to 3.13; `make lock` writes this file anew.'; cat .venv/lock) > requirements.lock

clean:  ## remove what was built, but no weights and no checkpoints
	rm -rf .venv build .pytest_cache .ruff_cache .hypothesis
