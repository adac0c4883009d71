#!/bin/sh
# Runs every fuzz target of a build for some seconds each: tools/fuzz.sh BUILD SECONDS [NAME...]
# libFuzzer binaries where the build has them (new inputs go to BUILD/corpus), else the mutations of tests/fuzz/replay.c.
# Goes on after a finding, leaves the input that made it in BUILD/findings, and exits 1 then.
set -eu
build=$(cd "$1" && pwd)
seconds=$2
shift 2
seeds=$(cd "$(dirname "$0")/.." && pwd)/tests/fuzz/corpus
mkdir -p "$build/findings"
[ $# -gt 0 ] || set -- $(ls "$seeds")
failed=0
for name in "$@"; do
  echo "== $name, $seconds s"
  if [ -x "$build/tests/fuzz/libfuzz_$name" ]; then
    mkdir -p "$build/corpus/$name"
    "$build/tests/fuzz/libfuzz_$name" -max_total_time="$seconds" -timeout=25 -rss_limit_mb=4096 -print_final_stats=1 \
      -verbosity=0 -artifact_prefix="$build/findings/$name-" "$build/corpus/$name" "$seeds/$name" || failed=1
  else
    "$build/tests/fuzz/fuzz_$name" --seconds "$seconds" --save "$build/findings/$name" "$seeds/$name" || failed=1
  fi
done
exit "$failed"
