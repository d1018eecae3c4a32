# Each target makes .venv when it is missing. PYTHON: any CPython 3.11 to 3.13.
PYTHON ?= $(shell for p in python3.12 python3.11 python3.13 python3; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null \
	&& echo $$p && break; done)
BIN := .venv/bin

.PHONY: demo test test-all test-lowest lint docs bench clean

demo: .venv
	@launch/demo.sh

test: .venv
	$(BIN)/python -m pytest -m "not long" -n 2

test-all: .venv
	$(BIN)/python -m pytest -n 2

# The lowest versions that setup.cfg allows, installed by uv in a folder of their own.
LOWEST := build/lowest
test-lowest:
	rm -rf $(LOWEST)
	uv venv --quiet --python $(PYTHON) $(LOWEST)
	uv pip compile --quiet --resolution lowest-direct --python $(LOWEST)/bin/python \
	--extra test --extra tpu --output-file $(LOWEST)/versions.txt setup.cfg
	uv pip install --quiet --python $(LOWEST)/bin/python --requirements $(LOWEST)/versions.txt
	$(LOWEST)/bin/python -m pytest -m "not long" -n 2

lint: .venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

# docs/cli.md is generated from `--help`.
docs: .venv
	$(BIN)/python -m docs.make_cli

# A failed installation is removed, so that it is not taken for a complete one.
.venv: requirements.txt setup.cfg
	@test -n "$(PYTHON)" || { echo "mixer_jax needs CPython 3.11 to 3.13: make PYTHON=…" >&2; exit 2; }
	rm -rf .venv
	$(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }
	{ $(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt \
	&& $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .; } \
	|| { rm -rf .venv; exit 1; }
	touch .venv

# A small model; `mixer-jax bench --help` lists the others.
bench: .venv
	$(BIN)/python -m mixer_jax bench --model=S/32 --what=forward,train,loop,evaluate --batch=auto

clean:
	rm -rf build .pytest_cache .ruff_cache
