#!/bin/sh
# Builds the library, the Python extension in place and the conformance program on a machine with a GPU. Headers that such a machine
# lacks may lie in build-carry/ (include/, lib/, jansson.pc).
set -e
cd "$(dirname "$0")/../.."
carry="$PWD/build-carry"
if [ -d "$carry" ]; then
  export PKG_CONFIG_PATH="$carry:$PKG_CONFIG_PATH" LD_LIBRARY_PATH="$carry/lib:$LD_LIBRARY_PATH"
  zlib="-DZLIB_INCLUDE_DIR=$carry/include -DZLIB_LIBRARY=/usr/lib/x86_64-linux-gnu/libz.so.1"
fi
cmake -S . -B build-dev -G Ninja -DKILN_PYTHON=ON -DKILN_PYTHON_INPLACE=ON -DKILN_TESTS=OFF $zlib >/dev/null
ninja -C build-dev -j"$(nproc)" >build-dev/build.log 2>&1 || { tail -40 build-dev/build.log; exit 1; }
cc -std=gnu17 -O1 -w -Iinclude -Isrc -Itests/conformance ${carry:+-I$carry/include -L$carry/lib} tests/conformance/*.c build-dev/libkiln.a \
  -o build-dev/conformance -ljansson ${zlib:+/usr/lib/x86_64-linux-gnu/libz.so.1} $([ -n "$zlib" ] || echo -lz) -lpthread -ldl -lm
