#!/bin/sh
# Installs the system packages that the build needs, through apt when root or passwordless sudo can; else says what to install.
set -eu

packages="zlib1g-dev libjansson-dev libcmocka-dev cmake ninja-build pkg-config python3-venv python3-dev gcc g++"

missing=""
for package in $packages; do
  if command -v dpkg >/dev/null 2>&1; then
    dpkg -s "$package" >/dev/null 2>&1 || missing="$missing $package"
  fi
done

if ! command -v dpkg >/dev/null 2>&1; then
  # Not a Debian: check for what is used, and leave the installing to its owner.
  for tool in cmake ninja pkg-config gcc; do
    command -v $tool >/dev/null 2>&1 || missing="$missing $tool"
  done
  for library in zlib jansson cmocka; do
    pkg-config --exists $library 2>/dev/null || missing="$missing $library"
  done
  [ -z "$missing" ] && exit 0
  echo "kiln: please install these with your package manager, then run make again:$missing" >&2
  exit 1
fi

[ -z "$missing" ] && exit 0
run=""
if [ "$(id -u)" -ne 0 ]; then
  if command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
    run="sudo"
  else
    echo "kiln: please install the missing packages, then run make again: sudo apt-get install -y$missing" >&2
    exit 1
  fi
fi
echo "kiln: installing$missing"
export DEBIAN_FRONTEND=noninteractive
$run apt-get update -qq
# shellcheck disable=SC2086
$run apt-get install -y -qq --no-install-recommends $missing
