# Everything a newcomer needs: `make run`, `make test`. Needs Python 3.11 or later and make, nothing else.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
INPUTS := pyproject.toml clients/python/pyproject.toml constraints.txt

.DEFAULT_GOAL := help
.PHONY: help run test check format bench proof clean

help: ## say what there is
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1@\2/p' $(MAKEFILE_LIST) | awk -F@ '{ printf "%-14s %s\n", $$1, $$2 }'

run: $(VENV)/run.stamp ## start a broker on this machine and say what to try next; ARGS="--config FILE" goes to it
	@echo 'Try in a second terminal:'
	@echo "  $(BIN)/postroom queue create mailer --topic 'orders/+'"
	@echo "  $(BIN)/postroom pub orders/created '{\"order\": 7}'"
	@echo '  $(BIN)/postroom queue peek mailer'
	@echo '  $(BIN)/postroom status'
	@echo '  $(BIN)/postroom demo        the whole journey of a message, on a broker of its own'
	@echo 'Ctrl-C stops this one. Its data stay in ./postroom-data.'
	@echo
	@exec $(BIN)/postroom serve $(ARGS)

test: $(VENV)/dev.stamp ## run the whole suite; ARGS="tests/core -x" narrows it
	$(BIN)/python -m pytest $(ARGS)

check: $(VENV)/dev.stamp ## lint, format, types, floors
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/dev.stamp ## put the code into its form
	$(BIN)/ruff check --fix --select I
	$(BIN)/ruff format

bench: $(VENV)/dev.stamp ## messages per second, with raw drivers; ARGS="--help" says what can be chosen
	$(BIN)/python -m tests.bench $(ARGS)

proof: $(VENV)/dev.stamp ## what the promises rest on: conformance, the journey, kill -9, restarts, failing disks and power, broken rules, examples drawn at random
	POSTROOM_EXAMPLES=drawn $(BIN)/python -m pytest -v -m '' $(ARGS)

clean: ## remove what was installed and cached; data stay
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

# Installed once, and again when a requirement changes.
$(VENV)/run.stamp: $(INPUTS)
	@$(PYTHON) -c 'import sys; sys.exit("Postroom needs Python 3.11 or later: make PYTHON=python3.12 …" if sys.version_info < (3, 11) else 0)'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo 'Installing into $(VENV) …'
	@$(PIP) -e . -e clients/python
	@touch $@

$(VENV)/dev.stamp: $(VENV)/run.stamp
	@$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["dependency-groups"]["dev"], sep="\n")' > $(VENV)/dev.txt
	@$(PIP) -r $(VENV)/dev.txt
	@touch $@
