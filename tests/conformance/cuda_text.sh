#!/bin/sh
# Kernel text of the CUDA backend compiles for every architecture that Kiln supports; needs no GPU, only NVRTC (the PyPI wheel, found in
# KILN_CUDA_PATH or the development environment). cuda_text.sh CONFORMANCE [SOURCE_DIR]. Every operator for the oldest one; for the others
# those that differ by architecture, and one of each kind of generated text.
conformance=$1
: "${KILN_CUDA_PATH:=${2:-.}/.venv/lib/python3.11/site-packages/nvidia}"
for folder in "${2:-.}"/.venv/lib/python3*/site-packages/nvidia; do
  [ -d "$KILN_CUDA_PATH" ] || KILN_CUDA_PATH=$folder
done
export KILN_CUDA_PATH KILN_CACHE_DIR=
operators="add cast where gelu contiguous pad concat embedding index_put scatter mean argmax var softmax layer_norm group_norm max_pool
  avg_pool resize cumsum topk arange linear matmul conv attention lstm"
for arch in 80 86 89 90 100; do
  [ $arch = 80 ] && list= || list=$operators
  out=$("$conformance" -t cuda:sm_$arch -c $list 2>&1) && { echo "sm_$arch: $(echo "$out" | tail -1)"; continue; }
  if echo "$out" | grep -q "NVRTC.*was not found"; then
    echo "SKIPPED: NVRTC is not here (pip install nvidia-cuda-nvrtc)"
    exit 77
  fi
  echo "$out" | grep -A2 FAIL | head -30
  exit 1
done
