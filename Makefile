# Each target makes the venv that it needs by itself, once.
MANIFEST ?= manifests/team.yaml
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CLIENTS := .venv-clients
TESTS ?= tests
JOBS ?= 3

.PHONY: help demo weights test torture test-pythons test-lowest test-clients clients lint bench lock audit wheel clean
.DEFAULT_GOAL := help

help:  ## Show the targets
	@sed -n 's/^\([a-z-]*\):[^#]*## /  \1	/p' $(MAKEFILE_LIST) | expand -t 16

demo: $(VENV)/.ready  ## Show the whole thing on this machine, with no network
	@$(BIN)/orch demo

weights: $(VENV)/.ready  ## Fetch, verify and place what MANIFEST wants (default: manifests/team.yaml)
	@$(BIN)/orch sync $(MANIFEST)

test: $(VENV)/.ready-dev  ## Run the tests: real programs, real servers on loopback
	@test -e $(CLIENTS)/.ready || echo 'tests/clients is skipped: `make clients` installs what it needs (3.5 GB)' >&2
	@$(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(TESTS)

# Bounded: ORCH_TORTURE_ROUNDS starts to be killed at most (other parts in proportion) within ORCH_TORTURE_MINUTES minutes.
torture: $(VENV)/.ready-dev  ## Kill orch and its programs, fill and break disks at random; figures in build/torture.json
	@rm -f build/torture.json; seed=$${ORCH_TORTURE_SEED:-$$(date +%s)}; echo "ORCH_TORTURE_SEED=$$seed" >&2; \
	  ORCH_TORTURE_SEED=$$seed ORCH_TORTURE_ROUNDS=$${ORCH_TORTURE_ROUNDS:-750} ORCH_BROKEN_DISK_EVERY=4 \
	  $(BIN)/python -m pytest -n 0 -s tests/torture tests/engine/test_broken_disk.py

clients: $(CLIENTS)/.ready  ## Install real torch, keras, transformers ... for the tests (3.5 GB)

test-clients: $(VENV)/.ready-dev clients  ## Run their tests alone
	@ORCH_TEST_REQUIRE=clients $(BIN)/python -m pytest -n $(JOBS) tests/clients

# What other Pythons and other releases break: programs and their judges, files, locks, one hub by its own client.
FAST := tests/test_process.py tests/verify/test_check.py tests/test_files.py \
  tests/hubs/test_resolve.py::test_a_repository_is_locked_and_syncs_without_its_hub_s_api
PYTHONS ?= 3.11 3.12 3.13

test-pythons: $(VENV)/.ready-dev  ## Run the fast tests on each Python of this machine from 3.11 to 3.13
	@for version in $(PYTHONS); do \
	  found=; for python in python$$version $${PYENV_ROOT:-$$HOME/.pyenv}/versions/$$version.*/bin/python; do \
	    $$python -c 'import venv' 2>/dev/null && found=$$python; \
	  done; \
	  test -n "$$found" || { echo "no Python $$version here" >&2; continue; }; \
	  echo "the fast tests on Python $$version" >&2; \
	  $(BIN)/uv venv --quiet --clear --no-project --python $$found .venv-pythons/$$version \
	  && $(BIN)/uv pip install --quiet --python .venv-pythons/$$version $(LOCKED) -r requirements-dev.lock \
	  && $(BIN)/uv pip install --quiet --python .venv-pythons/$$version $(ITSELF) \
	  && timeout 300 .venv-pythons/$$version/bin/python -m pytest -n $(JOBS) $(FAST) || exit 1; \
	done

# The one environment that no lock file describes: uv finds the oldest releases anew, without their hashes.
test-lowest: $(VENV)/.ready-dev  ## Run them with the oldest release of each library that pyproject.toml allows
	@$(BIN)/uv venv --quiet --clear --no-project --python $(PYTHON) .venv-pythons/lowest
	@$(BIN)/uv pip install --quiet --python .venv-pythons/lowest --resolution lowest-direct -e '.[hub]'
	@$(BIN)/uv pip install --quiet --python .venv-pythons/lowest -c requirements-dev.lock pytest pytest-xdist hypothesis
	@timeout 300 .venv-pythons/lowest/bin/python -m pytest -n $(JOBS) $(FAST)

lint: $(VENV)/.ready-dev  ## ruff, mypy --strict, and the floors of the house
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports

bench: $(VENV)/.ready-dev  ## Measure against the peers, in the same run
	@$(BIN)/python -m benchmarks

# What is locked stays; UPGRADE=--upgrade takes the newest releases. The files name no index, so they serve with each
# one that has the same files; a test compares them with pyproject.toml.
UPGRADE ?=
RUNTIME := --extra embedded --extra hub --extra metrics --extra build
COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
  --no-emit-find-links --custom-compile-command 'make lock' $(UPGRADE) pyproject.toml
lock: $(VENV)/.ready-dev  ## Lock what pyproject.toml asks for by version and sha256: requirements*.lock
	@$(COMPILE) $(RUNTIME) -o requirements.lock
	@$(COMPILE) $(RUNTIME) --extra dev -c requirements.lock -o requirements-dev.lock
	@$(COMPILE) --extra audit -c requirements.lock -o requirements-audit.lock

audit: $(VENV)/.ready-dev  ## Ask PyPI for published holes of the locked releases (needs a network, so it is not in the gate)
	@$(BIN)/uv venv --quiet --clear --no-project --python $(PYTHON) .venv-pythons/audit
	@$(BIN)/uv pip install --quiet --python .venv-pythons/audit $(LOCKED) -r requirements-audit.lock
	@mkdir -p build; .venv-pythons/audit/bin/pip-audit --strict --progress-spinner off --disable-pip --require-hashes \
	    -r requirements-dev.lock >build/audit.txt 2>&1; code=$$?; cat build/audit.txt; \
	  ! grep -qE 'ConnectionError|ServiceError|Max retries|could not be audited' build/audit.txt \
	    || { echo 'not audited: the list of published holes (PyPI, JSON API) cannot be reached from here' >&2; exit 2; }; \
	  exit $$code

wheel: $(VENV)/.ready  ## Build dist/*.whl: the same bytes for the same commit; its sha256 is printed
	@git diff --quiet HEAD -- || echo 'warning: uncommitted changes go into this wheel' >&2
	@rm -f dist/*.whl; SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) $(BIN)/python -m hatchling build -t wheel -d dist >&2
	@sha256sum dist/*.whl

clean:  ## Remove what was made here (weights and the store stay)
	@rm -rf $(VENV) .venv-pythons $(CLIENTS) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

# Only files that the lock names by their sha256, and only wheels: no package runs code of its own to be installed.
LOCKED := --require-hashes --no-deps --only-binary :all:
# orch itself, built by the hatchling that the lock names.
ITSELF := --no-deps --no-build-isolation -e .

# uv where it is there (seconds), else venv and pip.
define install
	@if command -v uv >/dev/null 2>&1; then \
	  test -d $(VENV) || uv venv --quiet --no-project --python $(PYTHON) $(VENV); \
	  uv pip install --quiet --python $(BIN)/python $(1); \
	else \
	  test -d $(VENV) || $(PYTHON) -m venv $(VENV); \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check $(1); \
	fi
endef

$(VENV)/.ready: pyproject.toml requirements.lock
	@echo "making $(VENV) ..." >&2
	$(call install,$(LOCKED) -r requirements.lock)
	$(call install,$(ITSELF))
	@touch $@

$(VENV)/.ready-dev: $(VENV)/.ready requirements-dev.lock tests/requirements.txt
	@echo "adding the tools for tests to $(VENV) ..." >&2
	$(call install,$(LOCKED) -r requirements-dev.lock)
	$(call install,$(LOCKED) -r tests/requirements.txt)
	@touch $@

# The frameworks themselves, in a venv of their own: 3.5 GB. pip alone, as it alone finds a CPU torch that lies on a
# disk (find-links); elsewhere say where one is: make test-clients TORCH='torch==2.13.0 --index-url URL'.
TORCH ?= torch==2.13.0
QUIET := --quiet --disable-pip-version-check --no-compile  # most of it is never imported: a third of the time
$(CLIENTS)/.ready: tests/clients/requirements.txt
	@echo "making $(CLIENTS) (a minute or two) ..." >&2
	@test -d $(CLIENTS) || $(PYTHON) -m venv $(CLIENTS)
	@$(CLIENTS)/bin/python -m pip install $(QUIET) $(TORCH)
	@$(CLIENTS)/bin/python -m pip install $(QUIET) --no-deps -r $<
	@touch $@
