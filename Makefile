# Thin aliases. PYTHON is the environment's interpreter: python -m venv .venv && . .venv/bin/activate && make …
PYTHON ?= python

.PHONY: check test nightly demo docs kill bench ci

check:          ## ruff, mypy and the fast tests
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy
	$(PYTHON) -m pytest -q tests/unit tests/test_layout.py tests/test_exported.py tests/test_import_light.py

test:           ## the tests of every change, notebooks included
	$(PYTHON) -m pytest -n 2 --dist loadfile

nightly:        ## every test
	$(PYTHON) -m pytest -n 2 --dist loadfile -m "nightly or not nightly"

demo:           ## train, be killed, resume, compare
	qcity demo

docs:           ## every block and link of README and docs
	$(PYTHON) -m pytest tests/docs

kill:           ## notebooks killed with their hosts, 20 kills of each through a directory and the Hub emulator
	$(PYTHON) tests/kill_cells.py

bench:          ## the budget table (needs the bench extra)
	$(PYTHON) benchmarks/run_all.py

ci:             ## what the CI runs, in a fresh environment
	.ci/run
