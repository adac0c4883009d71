#!/bin/sh
# Runs every fuzz target of a sanitizer build for some seconds: tools/fuzz.sh BUILD SECONDS
set -eu
build=$1
seconds=$2
here=$(cd "$(dirname "$0")/.." && pwd)
for target in "$build"/tests/fuzz/fuzz_*; do
  [ -x "$target" ] && [ -f "$target" ] || continue
  name=$(basename "$target")
  echo "== $name, $seconds s"
  "$target" --seconds "$seconds" "$here/tests/fuzz/corpus/${name#fuzz_}"
done
