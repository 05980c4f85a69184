# make demo: the main job, from nothing. make test: every test. Both make .venv first, and leave it where it is up to date.

PYTHON ?= python3
TORCH ?= 2.13.0
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

BIN := .venv/bin
READY := .venv/ready

# Tests and roles share the cores as processes; a torch that takes them all for its threads makes everything slower.
export OMP_NUM_THREADS := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1

.DEFAULT_GOAL := venv
.PHONY: mutants slow-link venv packages diagrams check test simulate demo clean

venv: $(READY)

# torch goes first and by its local version: PyPI's own build for Linux brings gigabytes of CUDA that nothing here uses.
# Where pip's configured places do not have the CPU build, it comes from PyTorch's index.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv || { echo "no venv: apt-get install python3-venv" >&2; exit 1; }
	$(BIN)/pip install -q -c constraints.txt 'torch==$(TORCH)+cpu' 2>/dev/null \
	  || $(BIN)/pip install -q -c constraints.txt --extra-index-url $(TORCH_INDEX) 'torch==$(TORCH)+cpu'
	$(BIN)/pip install -q -c constraints.txt -e '.[dev]'
	touch $(READY)

packages:
	.ci/install

# What can be said in a minute: form, types, and the quick tests.
check: venv
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -m 'not slow' -n auto --dist worksteal

# Everything, over both brokers; installs what it needs from Debian first, or says the command.
test: packages venv
	$(BIN)/python -m pytest -n auto --dist worksteal

# Any seeds of the simulator, from:to.
SEEDS ?= 0:2000
simulate: venv
	MPSL_SEEDS=$(SEEDS) $(BIN)/python -m pytest -n auto --dist worksteal tests/test_simulator.py

# docs/state-machines.md, from the transition tables; a test fails when it is stale.
diagrams: venv
	$(BIN)/python -m mpsl.machines.tables.document > docs/state-machines.md

# Whether the tests notice what they should: one mutation at a time, some fifteen minutes. ONLY=word chooses some.
ONLY ?=
mutants: venv
	$(BIN)/python tests/mutants.py $(ONLY)

# A device behind 1 and 2 Mbit/s whose parts weigh 16 MB takes part in a round: seven minutes, so not in make test.
slow-link: packages venv
	$(BIN)/mpsl bench slowlink $(ARGS)

demo: venv
	$(BIN)/mpsl demo $(ARGS)

clean:
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
