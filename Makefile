# Each target makes the venv that it needs by itself, once.
MANIFEST ?= manifests/team.yaml
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CLIENTS := .venv-clients
TESTS ?= tests
JOBS ?= 4

.PHONY: help demo weights test torture fuzz test-pythons test-lowest test-clients clients lint bench bench-quick bench-fleet lock audit wheel clean
.PHONY: venv docs generate cast dist
.DEFAULT_GOAL := help

help:  ## Show the targets
	@sed -n 's/^\([a-z-]*\):[^#]*## /  \1	/p' $(MAKEFILE_LIST) | expand -t 16

demo: $(VENV)/.ready  ## Run the demo on this machine, without a network
	@$(BIN)/orch demo

weights: $(VENV)/.ready  ## Download, verify and install the models of MANIFEST (default: manifests/team.yaml)
	@$(BIN)/orch sync $(MANIFEST)

test: $(VENV)/.ready-dev  ## Run the tests: real programs, real servers on loopback
	@test -e $(CLIENTS)/.ready || echo 'tests/clients is skipped: `make clients` installs what it needs (3.5 GB)' >&2
	@echo 'some 15 minutes; what is skipped is listed at the end, with the reason' >&2
	@$(BIN)/python -m pytest -rs -n $(JOBS) --dist worksteal $(TESTS)

# Bounded: ORCH_TORTURE_ROUNDS starts to be killed at most (other parts in proportion) within ORCH_TORTURE_MINUTES minutes.
torture: $(VENV)/.ready-dev  ## Kill orch and its programs, fill and break disks at random; figures in build/torture.json
	@rm -f build/torture.json; seed=$${ORCH_TORTURE_SEED:-$$(date +%s)}; echo "ORCH_TORTURE_SEED=$$seed" >&2; \
	  ORCH_TORTURE_SEED=$$seed ORCH_TORTURE_ROUNDS=$${ORCH_TORTURE_ROUNDS:-750} ORCH_BROKEN_DISK_EVERY=4 \
	  $(BIN)/python -m pytest -n 0 -s tests/torture tests/engine/test_broken_disk.py

# Bounded by FUZZ_SECONDS for all readers together; what it finds is written to build/fuzz, with the seed that it prints.
fuzz: $(VENV)/.ready-dev  ## Mutate manifests, lists, archives, records, hub answers ...: nothing may hang or raise
	@$(BIN)/python -m tests.fuzz --seconds $${FUZZ_SECONDS:-60} $${FUZZ_SEED:+--seed $$FUZZ_SEED}

clients: $(CLIENTS)/.ready  ## Install real torch, keras, transformers ... for the tests (3.5 GB)

test-clients: $(VENV)/.ready-dev clients  ## Run only the tests of these clients
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
test-lowest: $(VENV)/.ready-dev  ## Run the fast tests with the oldest release of each library that pyproject.toml allows
	@$(BIN)/uv venv --quiet --clear --no-project --python $(PYTHON) .venv-pythons/lowest
	@$(BIN)/uv pip install --quiet --python .venv-pythons/lowest --resolution lowest-direct -e '.[hub]'
	@$(BIN)/uv pip install --quiet --python .venv-pythons/lowest -c requirements-dev.lock pytest pytest-xdist hypothesis
	@timeout 300 .venv-pythons/lowest/bin/python -m pytest -n $(JOBS) $(FAST)

lint: $(VENV)/.ready-dev  ## ruff, mypy --strict, and the import layers
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports

bench: $(VENV)/.ready-dev  ## Measure orch and other tools, in the same run
	@$(BIN)/python -m benchmarks

bench-quick: $(VENV)/.ready-dev  ## Measure the same in about two minutes: an eighth of the sizes, each once
	@$(BIN)/python -m benchmarks --quick

bench-fleet: $(VENV)/.ready-dev  ## Measure 8 hosts of one origin: alone, with peers, a slice cache, a swarm, with faults
	@$(BIN)/python -m benchmarks.fleet

docs: $(VENV)/.ready-dev  ## Build the documentation as a site, strictly: build/site
	@$(BIN)/python docs/cli.py && NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --clean

generate: $(VENV)/.ready-dev  ## Regenerate what is made from the code: docs/cli.md, share/, events, the tree, examples' outputs
	@for page in docs/tree.py docs/events.py docs/cli.py $(wildcard docs/troubleshooting.py); do \
	  $(BIN)/python $$page --write || exit; done
	@$(BIN)/python -m tests.docs.examples --write

cast: $(VENV)/.ready-dev  ## Record `orch demo` as docs/demo.svg
	@$(BIN)/python docs/cast.py

# What is locked stays; UPGRADE=--upgrade takes the newest releases. The files name no index, so they serve with each
# one that has the same files; a test compares them with pyproject.toml.
UPGRADE ?=
RUNTIME := --extra embedded --extra hub --extra build
COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
  --no-emit-find-links --custom-compile-command 'make lock' $(UPGRADE) pyproject.toml
lock: $(VENV)/.ready-dev  ## Lock what pyproject.toml asks for by version and sha256: requirements*.lock
	@$(COMPILE) $(RUNTIME) -o requirements.lock
	@$(COMPILE) $(RUNTIME) --extra dev --extra docs --extra signing --extra srv -c requirements.lock -o requirements-dev.lock
	@$(COMPILE) --extra audit -c requirements.lock -o requirements-audit.lock

audit: $(VENV)/.ready-dev  ## Ask PyPI for published vulnerabilities of the locked releases (needs a network, so it is not in the gate)
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

# One pip for what is locked and for the wheel, without compiling what shiv leaves out; of the tests' tools shiv alone.
dist: $(VENV)/.ready wheel  ## Build dist/orch.pyz: orch with what it needs in one file, for this kind of machine and Python
	@mkdir -p build; sed -n '/^\(pip\|setuptools\|shiv\)==/,/[^\\]$$/p' requirements-dev.lock >build/shiv.lock
	$(call install,$(LOCKED) -r build/shiv.lock)
	@{ cat requirements.lock; echo "$$(echo $(CURDIR)/dist/*.whl) --hash=sha256:$$(sha256sum dist/*.whl | cut -d' ' -f1)"; } >build/pyz.lock
	@rm -rf build/pyz; $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --target build/pyz \
	    $(LOCKED) -r build/pyz.lock
	@SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) $(BIN)/python pyz.py --compressed --reproducible --console-script orch \
	    --python '/usr/bin/env python3' --site-packages build/pyz --output-file dist/orch.pyz
	@sha256sum dist/orch.pyz

clean:  ## Remove what was made here (weights and the store stay)
	@rm -rf $(VENV) .venv-pythons $(CLIENTS) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

# Only files that the lock names by their sha256, and only wheels: no package runs code of its own to be installed.
LOCKED := --require-hashes --no-deps --only-binary :all:
# orch itself, built by the hatchling that the lock names.
ITSELF := --no-deps --no-build-isolation -e .

# uv where it is there (seconds), else pip.
define install
	@if command -v uv >/dev/null 2>&1; then \
	  uv pip install --quiet --python $(BIN)/python $(1); \
	else \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check $(1); \
	fi
endef

# An environment whose Python has left the machine, as after an upgrade of the system, is made again.
$(shell test -e $(VENV)/.ready && ! test -x $(BIN)/python && rm -f $(VENV)/.ready)

# What a failure left half made, with an old Python, without one or without pip, is no environment: it is made anew.
define make_venv
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	  && { command -v uv || $(BIN)/python -m pip --version; } >/dev/null 2>&1 && exit 0; \
	found=$$($(PYTHON) -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null) || { \
	  echo 'error: orch needs Python 3.11 or newer; $(PYTHON) is not here or does not run' >&2; \
	  echo 'hint: apt-get install python3 python3-venv' >&2; exit 1; }; \
	case $$found in \
	  3.1[1-9].*|3.[2-9][0-9].*|[4-9].*) ;; \
	  *) newer=python3.11; for name in python3.11 python3.12 python3.13; do \
	       command -v $$name >/dev/null 2>&1 && newer=$$name; done; \
	     echo "error: orch needs Python 3.11 or newer; found $$found (make PYTHON=$$newer $(MAKECMDGOALS))" >&2; exit 1;; \
	esac; \
	rm -rf $(VENV); \
	if command -v uv >/dev/null 2>&1; then uv venv --quiet --no-project --python $(PYTHON) $(VENV); \
	elif $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null; then $(PYTHON) -m venv $(VENV); \
	else \
	  echo "error: $(PYTHON) has no ensurepip, which makes an environment" >&2; \
	  echo "hint: apt-get install python$${found%.*}-venv, then again: make $(MAKECMDGOALS)" >&2; exit 1; \
	fi
endef

venv:  # for the tests of this file
	$(make_venv)

$(VENV)/.ready: pyproject.toml requirements.lock
	$(make_venv)
	@echo 'making $(VENV): downloads 15 MB from the package index, 90 MB on disk, about 20 s' >&2
	$(call install,$(LOCKED) -r requirements.lock)
	$(call install,$(ITSELF))
	@touch $@

$(VENV)/.ready-dev: $(VENV)/.ready requirements-dev.lock tests/requirements.txt
	@echo 'adding what the tests need: downloads 160 MB, 450 MB on disk, about a minute' >&2
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
