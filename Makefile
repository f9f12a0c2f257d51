# Everything a person or a CI job runs. Needs make and Python with pip and venv; the rest is installed into .venv.

MINIMUM := 3.11
VENV    := .venv
BIN     := $(VENV)/bin
ARGS    ?=
ONLY    ?=
SEEDS   ?= 200

# Half of what the tests do is waiting, so there are twice as many workers as processors; each has a PostgreSQL of its own.
WORKERS ?= $(shell $(BIN)/python -c 'import os; print(min(12, 2 * (os.cpu_count() or 1)))')
PYTEST   = $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal
# What needs no server and no installation: the suites run on SQLite alone.
QUICK   := tests/unit tests/properties tests/suites tests/storage -k "not postgres" \
	--ignore=tests/suites/test_broker_sinks.py --ignore=tests/unit/project

# Set by some containers, it makes each of the hundreds of processes that the tests start compile everything again.
unexport PYTHONDONTWRITEBYTECODE

# The first interpreter that is new enough; python3 when none is, so that the error below can say so.
IS_NEW_ENOUGH := import sys; sys.exit(sys.version_info[:2] < tuple(map(int, "$(MINIMUM)".split("."))))
PYTHON ?= $(shell for each in python3 python3.13 python3.12 python3.11; do \
	"$$each" -c '$(IS_NEW_ENOUGH)' 2>/dev/null && echo "$$each" && exit; done; echo python3)

INSTALL := $(BIN)/python -m pip --disable-pip-version-check --no-input install --quiet --constraint constraints.txt
RUNTIME := $(VENV)/.runtime-installed
DEV     := $(VENV)/.dev-installed

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:

.PHONY: help
help: ## Show these lines
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' Makefile
	@echo '  Options go in ARGS: make demo ARGS="--seed 7", make test ARGS="-k gateway"'

.PHONY: demo
demo: $(RUNTIME) ## Send 40 tasks through a sandbox full of faults and watch every one finish
	@$(BIN)/homing demo $(ARGS)

.PHONY: serve
serve: $(RUNTIME) ## Run Homing with the settings of the environment and .env
	@$(BIN)/homing serve $(ARGS)

.PHONY: test
test: $(DEV) ## Run the tests, in parallel (WORKERS=2 limits that)
	$(PYTEST) $(ARGS)

.PHONY: test-fast
test-fast: $(DEV) ## Run what needs no server, in about a minute: unit tests, properties, the suites on SQLite
	$(PYTEST) $(QUICK) $(ARGS)

.PHONY: nightly
nightly: $(DEV) ## Run what takes about two hours: a thousand processes killed, brokers away for minutes, new random examples
	$(PYTEST) -m nightly $(ARGS)
	$(PYTEST) $(QUICK) --hypothesis-profile explore
	$(BIN)/python -m bench --soak --only memory

.PHONY: simulate
simulate: $(DEV) ## Run whole histories of faults on virtual time, each from one seed (SEEDS=200)
	@$(BIN)/python -m tests.simulation --seeds $(SEEDS) $(ARGS)

.PHONY: bench
bench: $(DEV) ## Measure it beside a bare server and a naive handler (ONLY=acks,latency for parts)
	@$(BIN)/python -m bench --only "$(ONLY)" $(ARGS)

.PHONY: check
check: $(DEV) ## Lint, check formatting, types and the direction of imports
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

.PHONY: format
format: $(DEV) ## Repair what the linter and the formatter can repair
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

.PHONY: clean
clean: ## Remove the virtual environment and all caches; databases and .env stay
	rm -rf $(VENV) .venv-* build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Stamps: an installation is repeated only after the declared or the pinned dependencies changed.
$(VENV)/.created:
	@command -v "$(PYTHON)" >/dev/null || { \
		echo "No '$(PYTHON)' found: install Python $(MINIMUM) or newer, or name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@"$(PYTHON)" -c '$(IS_NEW_ENOUGH)' || { \
		echo "Homing needs Python $(MINIMUM) or newer, '$(PYTHON)' is older: name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "'$(PYTHON)' has no venv: install it (Debian, Ubuntu: apt install python3-venv), then try again" >&2; exit 1; }
	@echo "creating $(VENV) ..."
	@"$(PYTHON)" -m venv $(VENV)
	@touch $@

$(RUNTIME): $(VENV)/.created pyproject.toml constraints.txt
	@echo "installing Homing into $(VENV) ..."
	@$(INSTALL) --editable .
	@touch $@

$(DEV): $(VENV)/.created pyproject.toml constraints.txt
	@echo "installing Homing and its development tools into $(VENV) ..."
	@$(INSTALL) --editable '.[dev]'
	@touch $(RUNTIME) $@
