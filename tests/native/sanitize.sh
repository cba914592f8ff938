#!/usr/bin/env bash
# The whole of tests/native: every case in the checked build, then every kernel and formula again under AddressSanitizer and
# UndefinedBehaviorSanitizer. Python itself is not sanitized, so the runtimes are preloaded and its leaks left alone.
# Arguments go to pytest: tests/native/sanitize.sh -k kl_div
set -euo pipefail
cd "$(dirname "$0")/../.."

export KDFAST_NATIVE_FULL=1 OMP_NUM_THREADS=1
tests=(tests/test_native_*.py)

echo "== every case, every access checked for races and bounds"
python -m pytest -q "${tests[@]}" "$@"

echo "== every case under AddressSanitizer and UndefinedBehaviorSanitizer"
python tests/native/build.py sanitize
LD_PRELOAD="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libubsan.so)" \
  ASAN_OPTIONS=detect_leaks=0:detect_stack_use_after_return=0:allocator_may_return_null=1 \
  UBSAN_OPTIONS=print_stacktrace=1 PYTHONMALLOC=malloc KDFAST_NATIVE_MODE=sanitize \
  python -m pytest -q "${tests[@]}" "$@"
