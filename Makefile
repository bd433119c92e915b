PYTHON ?= python3
PYTEST_ARGS ?=
# Several processes share the tests out, each with one thread: models this small gain nothing from more.
PYTEST = OMP_NUM_THREADS=1 $(<D)/bin/pytest -n auto --maxprocesses 4 --dist worksteal
PIP_INSTALL = -m pip install -q --disable-pip-version-check

.PHONY: help env demo small test test-slow test-lowest test-newest test-vllm coverage style check types
.DEFAULT_GOAL := help

help:
	@echo "make env          create .venv with the tested versions (constraints.txt)"
	@echo "make demo         run the demonstration"
	@echo "make small        train the small checkpoint anew and package it (68 minutes on two cores)"
	@echo "make test         run the tests; PYTEST_ARGS='-k name' selects some"
	@echo "make test-slow    run the tests marked slow"
	@echo "make test-lowest  run the tests in .venv-lowest (constraints-lowest.txt)"
	@echo "make test-newest  run the core tests in .venv-newest, with the newest published versions of everything"
	@echo "make test-vllm    run the tests of serving in .venv-vllm, with vLLM (constraints-vllm.txt)"
	@echo "make coverage     run the tests and report which lines of the sources they reach"
	@echo "make style        format the code and mend what ruff can mend"
	@echo "make check        check format, lint and types, changing nothing"
	@echo "make types        check the types of the sources with mypy alone"

# torch comes first and alone, so that a CPU build chosen beforehand is not replaced.
.venv/.installed: constraints.txt
.venv-lowest/.installed: constraints-lowest.txt
.venv/.installed .venv-lowest/.installed: setup.cfg pyproject.toml
	test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	$(@D)/bin/python $(PIP_INSTALL) $$(grep '^torch==' $(filter constraints%,$^))
	$(@D)/bin/python $(PIP_INSTALL) -c $(filter constraints%,$^) -e '.[dev]'
	touch $@

env: .venv/.installed

demo: .venv/.installed
	.venv/bin/omnivinci-hf demo

small: .venv/.installed
	.venv/bin/python -m omnivinci_hf.world.training --output runs/small
	.venv/bin/python -m omnivinci_hf.world.packaging runs/small

test: .venv/.installed
	$(PYTEST) $(PYTEST_ARGS)

test-slow: .venv/.installed
	$(PYTEST) -m slow $(PYTEST_ARGS)

test-lowest: .venv-lowest/.installed
	$(PYTEST) $(PYTEST_ARGS)

# What a new version of a dependency can break; all tests with CORE_TESTS=tests.
CORE_TESTS ?= $(addprefix tests/,modeling original_layout registration processing media/test_media.py \
	training/test_collator.py training/test_trainer.py project/test_packaging.py)

# Renewed at each run. PyTorch alone stays as tested: the newest one comes with gigabytes for GPUs.
test-newest:
	test -x .venv-newest/bin/python || $(PYTHON) -m venv .venv-newest
	.venv-newest/bin/python $(PIP_INSTALL) $$(grep '^torch==' constraints.txt)
	.venv-newest/bin/python $(PIP_INSTALL) --upgrade --upgrade-strategy eager $$(grep '^torch==' constraints.txt) \
		-e '.[dev]'
	.venv-newest/bin/python -m pip freeze --all --exclude-editable
	OMP_NUM_THREADS=1 .venv-newest/bin/pytest -n auto --maxprocesses 4 --dist worksteal $(CORE_TESTS) $(PYTEST_ARGS)

# What vLLM itself asks for is not looked at: constraints-vllm.txt says why.
.venv-vllm/.installed: constraints-vllm.txt setup.cfg pyproject.toml
	test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	$(@D)/bin/python $(PIP_INSTALL) $$(grep '^torch==' $<)
	$(@D)/bin/python $(PIP_INSTALL) --no-deps -r $<
	$(@D)/bin/python $(PIP_INSTALL) --no-deps -e .
	touch $@

# One process: each engine has one of its own. What elsewhere skips for lack of vLLM is an error here.
test-vllm: .venv-vllm/.installed
	OMNIVINCI_REQUIRE_VLLM=1 OMP_NUM_THREADS=1 .venv-vllm/bin/python -m pytest -m "" tests/serving $(PYTEST_ARGS)

# The report by line is written to build/coverage/index.html.
coverage: .venv/.installed
	$(PYTEST) --cov --cov-report=term:skip-covered --cov-report=html $(PYTEST_ARGS)

style: .venv/.installed
	.venv/bin/ruff format
	.venv/bin/ruff check --fix

check: types
	.venv/bin/ruff format --check
	.venv/bin/ruff check

types: .venv/.installed
	.venv/bin/mypy
