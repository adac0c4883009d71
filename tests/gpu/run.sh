#!/bin/bash
# All GPU tests in one call of at most 8 minutes: operator conformance of every kernel and tactic, the tests of engines (precisions,
# streams, several contexts and GPUs, graph captures, memory, errors: tests/gpu/test_*.py), and compute-sanitizer's memcheck (with leaks)
# and racecheck on a fast part of the conformance set. Skips, visibly, where there is no GPU.
#   tests/gpu/run.sh [pytest arguments]       KILN_GPU_PARTS="conformance pytest sanitizer" chooses parts, KILN_GPU_SECONDS how long
# The output is also written to bench/results/tests_CARD.txt, or to $OUT/tests_CARD.txt if OUT is set.
cd "$(dirname "$0")/../.." || exit 1
if ! nvidia-smi >/dev/null 2>&1; then
  echo "SKIPPED: no NVIDIA GPU here"
  exit 0
fi
parts=${KILN_GPU_PARTS:-conformance pytest sanitizer}
begin=$(date +%s)
total=${KILN_GPU_SECONDS:-470}
card=$(nvidia-smi --query-gpu=name --format=csv,noheader -i 0 | tr 'A-Z ' 'a-z_')
record="${OUT:-bench/results}/tests_$card.txt"
left() { # seconds that are left of `$1`, or of the whole call
  local now=$(($(date +%s) - begin)) most=$1
  echo $((total - now < most ? (total - now > 1 ? total - now : 1) : most))
}

[ -x build-dev/conformance ] && [ -n "$KILN_NO_BUILD" ] || sh tests/gpu/build.sh || exit 1
export LD_LIBRARY_PATH="$PWD/build-carry/lib:$LD_LIBRARY_PATH" PYTHONPATH="$PWD/python" KILN_CACHE_DIR="${KILN_CACHE_DIR:-$(mktemp -d)}"
mkdir -p "$KILN_CACHE_DIR"
packages=$(python3 -c 'import torch, os; print(os.path.dirname(os.path.dirname(torch.__file__)))')
export KILN_CUDA_PATH="${KILN_CUDA_PATH:-$packages/nvidia}"
logs=$(mktemp -d)

conformance() { # shares of the cases, four for each processor, all operators in f32 and those with tensor-core kernels in f16 too
  local shares=$((4 * $(nproc))) result
  export shares logs half="linear matmul grouped_matmul conv attention layer_norm rms_norm group_norm softmax lstm gru"
  seq 0 $((2 * shares - 1)) | timeout "$(left "${KILN_CONFORMANCE_SECONDS:-300}")" xargs -P "$(nproc)" -I{} sh -c \
    'i={}; [ $i -lt $shares ] && options="" || options="-h $half"
     build-dev/conformance -t cuda -s $((i % shares))/$shares $options >$logs/$i.log 2>&1'
  grep -h "passed," "$logs"/[0-9]*.log | awk '{ p += $1; f += $3 } END { printf "conformance: %d passed, %d failed\n", p, f; exit f > 0 }'
  result=$?
  grep -h "FAIL" -A1 "$logs"/[0-9]*.log | cut -c1-330 | head -"${KILN_FAILURES:-60}"
  local late=$((2 * shares - $(grep -l "passed," "$logs"/[0-9]*.log | wc -l)))
  [ $late = 0 ] || { echo "conformance: $late of $((2 * shares)) shares not finished"; result=1; }
  return $result
}

# sanitize NAME SECONDS "OPTIONS" OPERATORS: two processes for each operator; an error of the tool counts, and so does one of the kernels.
sanitize() {
  local name=$1 seconds=$2 options=$3 failed=0 done=0 late="" half op
  shift 3
  for half in 0 1; do printf "$half %s\n" "$@"; done | timeout "$(left "$seconds")" xargs -P "$(nproc)" -L 1 sh -c \
    "'$sanitizer' $options --error-exitcode 9 build-dev/conformance -q -t cuda -s \$0/2 \$1 >'$logs/$name.'\$1.\$0.txt 2>&1; echo \$? >'$logs/$name.'\$1.\$0.rc"
  for op in "$@"; do
    case $(cat "$logs/$name.$op.0.rc" 2>/dev/null)$(cat "$logs/$name.$op.1.rc" 2>/dev/null) in
      00) done=$((done + 1)) ;;
      "" | 0) late="$late $op" ;;
      *) failed=$((failed + 1)); echo "$name: $op FAILED"; grep -hE "=====|FAIL" "$logs/$name.$op".*.txt | head -12 | cut -c1-200 ;;
    esac
  done
  echo "$name: $done operators without a finding, $failed with${late:+; not finished in time:$late}"
  [ $failed = 0 ] && [ -z "$late" ]
}

sanitizers() {
  sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda*/bin/compute-sanitizer "$packages"/nvidia/*/bin/compute-sanitizer 2>/dev/null | head -1)
  if [ -z "$sanitizer" ]; then
    echo "SKIPPED: compute-sanitizer is not here (it comes with the CUDA toolkit): no memcheck, no racecheck"
    return 0
  fi
  local result=0
  export KILN_CUDA_WITHOUT=cublaslt,cudnn # own kernels are what is checked
  export KILN_CUDA_MEMORY_POOL=0          # every tensor with a bound that the checker knows
  sanitize memcheck 70 "--tool memcheck --leak-check full" softmax layer_norm linear matmul conv attention mean cumsum sort \
    index_select scatter max_pool concat gelu embedding lstm || result=1
  sanitize racecheck 70 "--tool racecheck" softmax layer_norm linear matmul conv attention mean cumsum sort group_norm lstm || result=1
  return $result
}

everything() {
  local status=0 tests=""
  nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
  git log -1 --format='commit %h' 2>/dev/null
  case " $parts " in *" pytest "*) # beside the others, whose processes wait for compilers most of the time
    timeout "$(left 460)" python3 -m pytest -q -p no:cacheprovider tests/gpu "$@" >"$logs/pytest.txt" 2>&1 &
    tests=$! ;;
  esac
  case " $parts " in *" conformance "*) conformance || status=1 ;; esac
  case " $parts " in *" sanitizer "*) sanitizers || status=1 ;; esac
  if [ -n "$tests" ]; then
    wait "$tests" || status=1
    grep -v "Warning:\|warnings.warn" "$logs/pytest.txt" | tail -n "${KILN_TEST_LINES:-80}" | cut -c1-300
  fi
  echo "took $(($(date +%s) - begin)) s; $([ $status = 0 ] && echo "all passed" || echo "FAILURES, see above")"
  return $status
}

mkdir -p "$(dirname "$record")"
everything "$@" 2>&1 | tee "$record"
exit "${PIPESTATUS[0]}"
