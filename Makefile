# Each target does its own set-up on a fresh machine: a virtual environment with the exact versions that were tested.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
export PYTHONWARNINGS ?= default
# Warnings about pip's own code are of no use to anybody here.
PIP_ENV := PYTHONWARNINGS=ignore PIP_DISABLE_PIP_VERSION_CHECK=1

.PHONY: demo locked test test-slow test-gpu soak lint format package bench docs docs-serve clean browser

demo: $(READY)
	$(BIN)/mezzotint pretrain image/emoji_demo --out runs/demo --overwrite
	@echo "Open the page in a browser: file://$(CURDIR)/runs/demo/report.html"

test: $(READY) browser lint package docs
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n 2 --dist loadgroup

test-slow: $(READY)
	$(BIN)/pytest -q -m slow

test-gpu: $(READY)
	$(BIN)/pytest -q -m gpu

# Random kills, flipped bits, damaged files; for example SOAK="--kills 50 --flips 300 --files 500 --seed 1".
soak: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.faults.soak $(SOAK)

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The sdist and the wheel, built, checked, and used in a clean environment; nothing is downloaded.
package: $(READY)
	@$(BIN)/python scripts/check_package.py

# The peers that figures are measured against live in an environment of their own.
bench: $(READY)
	test -d .venv-bench || $(PIP_ENV) $(PYTHON) -m venv .venv-bench
	$(PIP_ENV) .venv-bench/bin/pip install -qq -c constraints.txt -e '.[bench]'
	.venv-bench/bin/python benchmarks/run_all.py

# The documentation as a site in build/site, offline: warnings are errors and links are checked.
docs: $(READY)
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build
	@echo "Open the documentation in a browser: file://$(CURDIR)/build/site/index.html"

docs-serve: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve --dev-addr 127.0.0.1:8000

# A browser drives the report's test; where none can be installed, that test is skipped and says so.
browser:
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null || \
	  { [ "$$(id -u)" = 0 ] && apt-get -qq update && apt-get -qq install -y chromium chromium-driver >/dev/null; } || \
	  echo "no Chromium: the report's browser test will be skipped"

$(READY): pyproject.toml constraints.txt
	@test -d $(VENV) || { echo "Set-up: a virtual environment in $(VENV)"; $(PIP_ENV) $(PYTHON) -m venv $(VENV); }
	@echo "Set-up: the tested versions of torch and the other packages (two to five minutes)"
	@$(PIP_ENV) $(BIN)/pip install -qq -c constraints.txt -e '.[dev]'
	@touch $(READY)

# The tested packages by the hashes of their files: Linux on x86-64, Python 3.11.
locked:
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(PIP_ENV) $(BIN)/pip install -q --require-hashes --no-deps -r requirements.lock
	$(PIP_ENV) $(BIN)/pip install -q --no-deps -e .
	@touch $(READY)

clean:
	rm -rf $(VENV) .venv-bench .pytest_cache .mypy_cache .ruff_cache build
