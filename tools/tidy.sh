#!/bin/sh
# clang-tidy, one file at a time: tools/tidy.sh CLANG_TIDY BUILD FILE... Prints findings; exits 1 if there are any.
set -eu
tidy=$1
build=$2
shift 2
found=0
for file in "$@"; do
  report=$("$tidy" -p "$build" --quiet --extra-arg=-Wno-unknown-warning-option "$file" 2>/dev/null) || found=1
  if [ -n "$report" ]; then
    printf '%s\n' "$report"
    found=1
  fi
done
exit "$found"
