#!/usr/bin/env bash
# `make gpu`: proves one machine with an NVIDIA GPU, offline, in under ten minutes. Installs the wheel that
# dist/ carries (or builds here), then tests both backends on the GPU, looks for memory faults and races, and
# measures. A step that fails does not stop the next; the summary is printed last, and the exit status is 1 if
# any step failed.
#
#   bench/gpu.sh [--dry-run]     --dry-run rehearses on a CPU: Triton interpreted, results in build/gpu
set -uo pipefail
cd "$(dirname "$0")/.."

DRY=0
case "${1:-}" in
  --dry-run) DRY=1 ;;
  "") ;;
  *) echo "bench/gpu.sh: unknown option $1; there is only --dry-run" >&2; exit 2 ;;
esac

PYTHON=${PYTHON:-python3}
WORK=$PWD/build/gpu
SITE=$WORK/site
BUDGET=${BUDGET:-570}  # seconds for everything
SUMMARY=()
FAILED=0
rm -rf "$WORK"
mkdir -p "$SITE"

# What is tested is what was installed, never the source tree: Python must not look into the current folder.
export PYTHONPATH=$SITE${PYTHONPATH:+:$PYTHONPATH} PYTHONSAFEPATH=1 PYTHONDONTWRITEBYTECODE=1

# step NAME SECONDS COMMAND...: runs the command with a time limit, keeps its output in build/gpu/NAME.log.
# The limit interrupts, as Ctrl-C does, so that pytest still writes what it has measured.
step() {
  local name=$1 limit=$2 begun=$SECONDS status word
  shift 2
  local left=$((BUDGET - SECONDS))
  if ((left < 5)); then
    SUMMARY+=("$(printf '%-18s %-8s' "$name" 'no time')")
    FAILED=1
    return
  fi
  echo "== $name: $*"
  timeout -s INT -k 10 $((limit < left ? limit : left)) "$@" 2>&1 </dev/null | tee "$WORK/$name.log"
  status=${PIPESTATUS[0]}
  case $status in
    0) word=passed ;;
    124 | 137) word=time-out FAILED=1 ;;
    *) word=FAILED FAILED=1 ;;
  esac
  local last
  last=$(tail -n 1 "$WORK/$name.log")
  SUMMARY+=("$(printf '%-18s %-8s %4ds  %s' "$name" "$word" $((SECONDS - begun)) "$last")")
  return "$status"
}

skip() { SUMMARY+=("$(printf '%-18s %-8s       %s' "$1" skipped "$2")"); }

# A wheel is a zip file of a package folder, so that a Python without pip can install it too.
install_wheel() {
  "$PYTHON" -m pip install -q --no-deps --no-index --target "$SITE" "$WHEEL" ||
    "$PYTHON" -m zipfile -e "$WHEEL" "$SITE" || return
  echo "installed $WHEEL"
}

build_here() {
  "$PYTHON" -m pip install -q --no-deps --no-build-isolation --target "$SITE" . && echo "built here"
}
export -f install_wheel build_here
WHEEL=$(ls -t dist/kdfast-*-abi3-*.whl 2>/dev/null | head -n 1)
export SITE PYTHON WHEEL

if ((DRY)); then
  GPU=dry-run DEVICE=cpu RESULTS=$WORK/results
  export TRITON_INTERPRET=1
else
  GPU=$("$PYTHON" -c 'import torch; print(torch.cuda.get_device_name())' 2>/dev/null)
  if [[ -z $GPU ]]; then
    echo "bench/gpu.sh: torch sees no GPU here; --dry-run rehearses on the CPU" >&2
    exit 2
  fi
  DEVICE=cuda
  RESULTS=bench/results/$(tr 'A-Z ' 'a-z-' <<<"$GPU" | tr -cd 'a-z0-9-')
  if [[ -z ${KDFAST_CUDA_ARCHS:-} ]]; then
    ARCH='import torch; print("sm_%d%d" % torch.cuda.get_device_capability())'
    KDFAST_CUDA_ARCHS=$("$PYTHON" -c "$ARCH")
    export KDFAST_CUDA_ARCHS
  fi
fi
mkdir -p "$RESULTS"
export KDFAST_BENCH_DEVICE=$DEVICE

if [[ -n $WHEEL ]]; then
  step install 60 bash -c install_wheel
else
  skip install "dist/ holds no wheel"
  step build 240 bash -c build_here
fi
step info 60 "$PYTHON" -m kdfast

# Recipes, the selectors and the offsets' property tests need packages that such a machine may lack;
# tests/test_native_* is about the emulated device.
PYTEST=("$PYTHON" -m pytest -q -p no:cacheprovider --continue-on-collection-errors
  --ignore tests/recipes --ignore tests/test_kan_selector.py
  --ignore-glob "tests/test_native_*" --ignore tests/test_triton_offsets.py)
KDFAST_BACKEND=native step test-native 120 "${PYTEST[@]}" tests -m "not slow" \
  -k "$DEVICE and not triton and not reference"
KDFAST_BACKEND=triton step test-triton 120 "${PYTEST[@]}" tests -m "not slow" \
  -k "$DEVICE and triton"

# Without torch's caching allocator each tensor is an allocation of its own, so that overruns are seen.
export PYTORCH_NO_CUDA_MEMORY_CACHING=1
for tool in memcheck racecheck synccheck; do
  if ((DRY)); then
    skip "$tool" "the dry run has no GPU"
  elif ! command -v compute-sanitizer >/dev/null; then
    skip "$tool" "compute-sanitizer is not on the PATH"
  else
    KDFAST_BACKEND=native step "$tool" 40 compute-sanitizer --tool "$tool" --error-exitcode 9 \
      "$PYTHON" -m kdfast --check
  fi
done
unset PYTORCH_NO_CUDA_MEMORY_CACHING

# kl_div on both backends first; the other ops take the time that is left. Triton's records have a folder of
# their own.
measure() {
  local op=$1 backend=$2 folder=$RESULTS
  [[ $backend == native ]] || folder=$RESULTS-$backend
  KDFAST_BACKEND=$backend KDFAST_BENCH_RESULTS=$folder step "bench-$op-$backend" 100 \
    "${PYTEST[@]}" "bench/bench_$op.py" --benchmark-only
}
measure kl_div native
measure kl_div triton
for file in $(grep -l '^import harness' bench/bench_*.py); do
  op=$(basename "$file" .py)
  op=${op#bench_}
  [[ $op == kl_div ]] || ((BUDGET - SECONDS < 40)) || measure "$op" native
done

echo
echo "== $GPU: summary ($SECONDS s; logs in build/gpu, measurements in $RESULTS)"
printf '%s\n' "${SUMMARY[@]}" | tee "$RESULTS/summary.txt"
exit $FAILED
