# Everything runs from a fresh checkout: no Docker, no root, no server and no uv are needed beforehand.

PYTHON ?= $(shell for python in python3.13 python3.12 python3.11 python3; do \
	"$$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null \
	&& { command -v "$$python"; break; }; done)
BIN := .venv/bin
SET_UP := .venv/.set-up
TARGETS := memory nats nats-cluster redis redis-cluster sqlite postgresql $(if $(shell command -v mariadbd),mariadb)
REPORTS = conformance/reports/$(shell $(BIN)/aether-conformance --version)
SOURCES := packages/*/src conformance/src

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint types conformance matrix zoo torture bench performance fmt wheels requirements clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(SET_UP)  ## make .venv with everything that development needs

$(SET_UP): requirements-dev.txt scripts/set_up.py conformance/pyproject.toml $(wildcard packages/*/pyproject.toml)
	@test -n "$(PYTHON)" || { echo "Python 3.11, 3.12 or 3.13 is needed and was not found;" \
		"install one, or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3" >&2; exit 1; }
	$(PYTHON) scripts/set_up.py
	@touch $@

demo: setup  ## watch event sourcing on a real NATS server, about 20 seconds
	@$(BIN)/python examples/demo.py

test: lint types  ## everything that must pass: lints, types, unit tests, conformance, README, wheels
	$(BIN)/pytest -n 3  # on two cores: what waits for a server leaves one of them free

lint: setup  ## ruff, and the rules that ruff does not know
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python scripts/lint_namespace.py
	$(BIN)/python scripts/lint_tests.py
	$(BIN)/python scripts/lint_hosts.py

types: setup  ## mypy and basedpyright, both strict
	$(BIN)/mypy $(SOURCES) examples scripts
	$(BIN)/basedpyright

conformance: setup  ## the conformance suite against every backend of this repository
	$(BIN)/pytest conformance/tests

matrix: setup  ## run the suite on every backend of this repository, keep the reports, and write docs/backends.md
	@for target in $(TARGETS); do \
		$(BIN)/aether-conformance run $$target --report $(REPORTS)/$$target; \
		code=$$?; case $$code in 0|1|4) ;; *) exit $$code;; esac; done
	$(BIN)/aether-conformance matrix conformance/reports --output docs/backends.md

zoo: setup  ## measure how many broken backends the machines alone find out; writes conformance/kill-rate.json
	$(BIN)/python scripts/kill_rate.py

torture: setup  ## longer than make test: processes killed, stopped and cut off under load, for hours
	$(BIN)/python scripts/kill_projection.py sqlite postgresql nats relay --kills 50
	$(BIN)/python scripts/flakes.py memory nats --rounds 20 --load 2
	$(BIN)/python -m aether.conformance.simulation --seeds 0 200
	$(BIN)/python -m aether.conformance.simulation --seeds 200 300 --losses
	$(BIN)/python scripts/torture_clusters.py nats postgresql --faults 1000
	$(BIN)/python scripts/torture_clusters.py nats-cluster --faults 75 --nodes 3 --ttl 4 --bound 90

bench: setup  ## measure against the raw clients and a peer; prints a table and writes JSON; more: bench/run.py --help
	$(BIN)/python bench/run.py
	$(BIN)/python bench/clusters.py

performance: setup  ## measure, and write docs/performance.md
	$(BIN)/python bench/run.py --rounds 9 --markdown docs/performance.md

fmt: setup  ## format the code, and repair what ruff can repair
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

wheels: setup  ## build the wheels into dist/
	rm -rf dist
	PATH="$(CURDIR)/.tools/bin:$$PATH" uv build --quiet --all-packages --wheel --out-dir dist
	$(BIN)/python scripts/lint_namespace.py dist/*.whl

requirements:  ## pin the newest versions of what others wrote, with hashes
	$(PYTHON) scripts/set_up.py --pin

clean:  ## remove everything that was made, .venv and .tools too
	rm -rf .venv .tools .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist bench/results
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
