#!/bin/bash
# All GPU tests in one go, at most 8 minutes: operator conformance of every kernel and tactic, then models, streams, graphs, several
# contexts and errors (tests/gpu/test_gpu.py). Skips, visibly, where there is no GPU.
cd "$(dirname "$0")/../.." || exit 1
if ! nvidia-smi >/dev/null 2>&1; then
  echo "SKIPPED: no NVIDIA GPU here"
  exit 0
fi
sh tests/gpu/build.sh || exit 1
carry="$PWD/build-carry"
export LD_LIBRARY_PATH="$carry/lib:$LD_LIBRARY_PATH" PYTHONPATH="$PWD/python" KILN_CACHE_DIR="${KILN_CACHE_DIR:-$(mktemp -d)}"
mkdir -p "$KILN_CACHE_DIR"
nvidia-smi --query-gpu=name,driver_version --format=csv,noheader
packages=$(python3 -c 'import torch, os; print(os.path.dirname(os.path.dirname(torch.__file__)))')
export KILN_CUDA_PATH="${KILN_CUDA_PATH:-$packages/nvidia}"
out=$(mktemp -d)
list=$(build-dev/kiln ops | awk 'NR > 1 { print $1 }'; echo fused)
echo "$list" | timeout "${KILN_CONFORMANCE_SECONDS:-240}" xargs -P "$(nproc)" -I{} sh -c "build-dev/conformance -t cuda {} >$out/{}.log 2>&1"
grep -h "passed," "$out"/*.log | awk '{ p += $1; f += $3 } END { printf "conformance: %d passed, %d failed\n", p, f }'
grep -h "FAIL" -A1 "$out"/*.log | cut -c1-330 | head -"${KILN_FAILURES:-60}"
grep -L "passed," "$out"/*.log | sed 's/^/not finished: /'
python3 -m pytest -q tests/gpu "$@"
