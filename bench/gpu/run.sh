#!/bin/bash
# The table of the GPU: every model at batch 1 and 32, this library against torch.compile and a CUDA graph of eager PyTorch, in one call.
#   bench/gpu/run.sh [MODELS [BATCHES [PEERS]]]     lists with commas; peers: kiln, kiln-tuned, compile, graph
# Skips, visibly, where there is no GPU. Rows go to $OUT or bench/results/gpu.jsonl.tmp, one JSON object a line.
cd "$(dirname "$0")/../.." || exit 1
if ! nvidia-smi >/dev/null 2>&1; then
  echo "SKIPPED: no NVIDIA GPU here"
  exit 0
fi
sh tests/gpu/build.sh || exit 1
export LD_LIBRARY_PATH="$PWD/build-carry/lib:$LD_LIBRARY_PATH" PYTHONPATH="$PWD/python" KILN_CACHE_DIR="${KILN_CACHE_DIR:-$(mktemp -d)}"
packages=$(python3 -c 'import torch, os; print(os.path.dirname(os.path.dirname(torch.__file__)))')
export KILN_CUDA_PATH="${KILN_CUDA_PATH:-$packages/nvidia}"
mkdir -p "$KILN_CACHE_DIR"
models=${1:-resnet50,bert_base,vit_b_16,mobilenet_v2,efficientnet_b0,vgg16,convnext_tiny,swin_t,gpt2}
out=${OUT:-bench/results}
seconds=${KILN_BENCH_SECONDS:-420}
timeout $((seconds + 60)) python3 -u bench/gpu/bench.py "$out/gpu.jsonl.tmp" "$models" "${2:-1,32}" "${3:-kiln,compile,graph}" --seconds "$seconds"
