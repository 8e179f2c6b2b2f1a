# Everything here works on a fresh machine with Rust, Python, make and a C compiler:
# `make demo` shows hybridloop at work, `make test` tests it, `make help` lists the rest.

PYTHON ?= python3
VENV ?= .venv
CARGO ?= cargo
MIRI ?= cargo +nightly miri
PORT ?= 8000
# For example: make test PYTEST_ARGS="-k timers -x"
PYTEST_ARGS ?=
# For example: make test-suites SUITES="anyio uvicorn"
SUITES ?=
# What works with memory of Python's; the other tests run many processes, or programs of others.
MEMORY_TESTS ?= tests/loop tests/transports tests/streams tests/tls tests/sockets tests/datagrams \
	tests/pipes tests/sendfile tests/unix tests/native tests/awaitables tests/references
FUZZ_SECONDS ?= 60
FUZZ_ARGS ?=
DEMO_ARGS ?=
BENCH_ARGS ?=
# For example: make bench BENCH_PYTHON=python3.14, or BENCH_PYTHON=newest; each has its own
# virtual environment.
BENCH_PYTHON ?=

MIN_PYTHON := 11
MIN_RUST := 88
MINOR_VERSION := -c 'import sys; print(sys.version_info[:2])'

comma := ,
PY := $(VENV)/bin/python
# The unit tests of the extension call no function of Python, which need not be there to link with.
NO_PYTHON := $(if $(filter Darwin,$(shell uname)),-C link-arg=-undefined -C link-arg=dynamic_lookup,\
	-C link-arg=-Wl$(comma)--unresolved-symbols=ignore-all)
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)

# PyO3's build script asks this interpreter, also when cargo is called without maturin.
export PYO3_PYTHON := $(abspath $(PY))
export PIP_DISABLE_PIP_VERSION_CHECK := 1

RUST_SOURCES := $(shell find src crates include -type f \( -name '*.rs' -o -name '*.h' -o -name Cargo.toml \) 2>/dev/null)
BUILD_INPUTS := $(RUST_SOURCES) Cargo.toml pyproject.toml $(wildcard Cargo.lock build.rs rust-toolchain.toml)
BUILT := $(VENV)/.built

# What stands in a virtual environment whose interpreter is gone has to be installed anew, and an
# extension that is gone built anew; its path is written in the file BUILT.
$(shell [ -x "$(PY)" ] || rm -f "$(BUILT)" "$(VENV)/.maturin" "$(VENV)"/.extra-*)
$(shell [ -e "$$(cat "$(BUILT)" 2>/dev/null)" ] || rm -f "$(BUILT)")

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

.PHONY: help
help: ## List the targets
	@echo "usage: make [target] [PYTHON=python3.12] [VENV=.venv-3.12]"
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-18s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

##### Use

.PHONY: demo
demo: $(BUILT) $(VENV)/.extra-demo ## Serve HTTP on hybridloop, check every response, compare loops, run heavy work beside
	@$(PY) -m examples.demo $(DEMO_ARGS)

.PHONY: serve
serve: $(BUILT) $(VENV)/.extra-demo ## Keep the demo's server running (PORT=8000)
	@echo "http://127.0.0.1:$(PORT)/  /json  /about  /stream  POST /echo    Ctrl-C stops the server"
	@$(PY) -m uvicorn examples.demo.app:app --loop hybridloop:new_event_loop --http httptools \
		--lifespan off --host 127.0.0.1 --port $(PORT)

.PHONY: build
build: $(BUILT) ## Build the extension in release mode into the virtual environment

.PHONY: wheel
wheel: $(VENV)/.maturin ## Build a wheel for PYTHON into dist/
	@$(VENV)/bin/maturin build --release --interpreter $(PY) --out dist

# maturin builds the extension twice: the first one writes down what it does while the program of pgo-command in pyproject.toml
# runs, and the second one is compiled by that.
OPTIMISED := $(TARGET_DIR)/optimised-wheel
.PHONY: wheel-optimised
wheel-optimised: $(VENV)/.maturin | check-pgo-tools ## Build the wheel that is released: with PGO; its debug information is beside it
	@rm -rf "$(OPTIMISED)"
	@$(VENV)/bin/maturin build --release --pgo --interpreter $(PY) --out "$(OPTIMISED)"
	@$(PY) -m pip install -q wheel
	@$(PY) packages/separate_debug_info.py "$(OPTIMISED)"/*.whl
	@mkdir -p dist
	@cp -r "$(OPTIMISED)"/. dist/

.PHONY: check-pgo-tools
check-pgo-tools:
	@command -v llvm-profdata >/dev/null || [ -x "$$(rustc --print target-libdir)/../bin/llvm-profdata" ] || { \
		echo "an optimised build needs llvm-profdata; with rustup: rustup component add llvm-tools" >&2; exit 1; }

.PHONY: wheel-abi
wheel-abi: $(PY) ## Build the wheel of the C headers, hybridloop-abi, into dist/
	@rm -rf packages/abi/build
	@$(PY) -m pip wheel -q --no-deps --wheel-dir dist ./packages/abi

.PHONY: sdist
sdist: $(VENV)/.maturin ## Build a source distribution into dist/
	@$(VENV)/bin/maturin sdist --out dist

##### Check

.PHONY: test
test: test-rust test-python ## Run every test: Rust, loom models, Python

.PHONY: test-rust
test-rust: $(PY) | check-tools ## Run the tests in Rust, which need no Python, and the loom models
	$(CARGO) test -p hybridloop-sync -p hybridloop-reactor -p hybridloop-kernel -p hybridloop-kernels -p loadgen
	$(CARGO) test -p hybridloop-async -p hybridloop-async-macros -p hybridloop-kernel-macros --doc
	RUSTFLAGS="--cfg loom" $(CARGO) test -p hybridloop-sync -p hybridloop-kernels --release --test loom \
		--target-dir "$(TARGET_DIR)/loom"
	PYO3_BUILD_EXTENSION_MODULE=1 RUSTFLAGS="$(NO_PYTHON)" $(CARGO) test -p hybridloop --lib --target-dir "$(TARGET_DIR)/unit"

.PHONY: test-stress
test-stress: | check-tools ## Run the tests of the memory bus that take long, optimized
	CARGO_PROFILE_RELEASE_LTO=off $(CARGO) test -p hybridloop-kernels --release --test bus -- --ignored

# The standard library is instrumented as well, or else every lock would look like a race. A child of a fork may start threads.
.PHONY: test-tsan
test-tsan: | check-tools ## Run the tests of the crates without Python under ThreadSanitizer
	@[ -d "$$(rustc --print sysroot)/lib/rustlib/src/rust/library" ] || { \
		echo "ThreadSanitizer needs the source of Rust's standard library: rustup component add rust-src" >&2; exit 1; }
	RUSTC_BOOTSTRAP=1 RUSTFLAGS=-Zsanitizer=thread TSAN_OPTIONS="die_after_fork=0 $(TSAN_OPTIONS)" $(CARGO) test \
		-p hybridloop-sync -p hybridloop-reactor -p hybridloop-kernels --lib --tests --target-dir "$(TARGET_DIR)/tsan" \
		-Zbuild-std --target "$$(rustc -vV | sed -n 's/^host: //p')"

# What calls C, and what waits for sockets, Miri cannot run; kernels in Rust stand for those in C.
.PHONY: test-miri
test-miri: | check-tools ## Run the tests of the crates without Python under Miri, which checks each use of memory
	@$(MIRI) --version >/dev/null 2>&1 || { \
		echo "Miri is not there: rustup toolchain install nightly --component miri,rust-src" >&2; exit 1; }
	MIRIFLAGS="-Zmiri-disable-isolation $(MIRIFLAGS)" $(MIRI) test --target-dir "$(TARGET_DIR)/miri" \
		-p hybridloop-kernel --test kernel
	MIRIFLAGS="-Zmiri-disable-isolation $(MIRIFLAGS)" $(MIRI) test --target-dir "$(TARGET_DIR)/miri" \
		-p hybridloop-kernels --lib --test bus --test sdk --test emit
	MIRIFLAGS="-Zmiri-disable-isolation $(MIRIFLAGS)" $(MIRI) test --target-dir "$(TARGET_DIR)/miri" \
		-p hybridloop-sync --lib -- notify_queue
	MIRIFLAGS="-Zmiri-disable-isolation $(MIRIFLAGS)" $(MIRI) test --target-dir "$(TARGET_DIR)/miri" \
		-p hybridloop-reactor --lib -- registry timers --skip many_due

# Each goes on from what it has found before, in corpus/ there; an input that fails stays in artifacts/.
.PHONY: fuzz
fuzz: | check-tools ## Feed generated input to parsers, decoders and the bus, a minute each (FUZZ_SECONDS=600)
	@$(CARGO) +nightly fuzz --version >/dev/null 2>&1 || { \
		echo "cargo-fuzz or a nightly compiler is not there:" >&2; \
		echo "    rustup toolchain install nightly && cargo install --locked cargo-fuzz" >&2; exit 1; }
	cd crates/hybridloop-kernels && for target in fuzz/fuzz_targets/*.rs; do \
		target="$$(basename "$$target" .rs)"; \
		$(CARGO) +nightly fuzz run "$$target" --target-dir "$(abspath $(TARGET_DIR))/fuzz" \
			-- -max_total_time=$(FUZZ_SECONDS) $(FUZZ_ARGS) || exit 1; done

.PHONY: test-python
test-python: $(BUILT) $(VENV)/.extra-test ## Run the Python tests (PYTEST_ARGS="-k timers")
	$(PY) -m pytest tests $(PYTEST_ARGS)

# What looks into private memory of CPython has a way around it; see src/python/unstable.
.PHONY: test-safe
test-safe: $(BUILT) $(VENV)/.extra-test ## Run the Python tests without any look into private memory of CPython
	HYBRIDLOOP_SAFE=1 $(PY) -m pytest tests $(PYTEST_ARGS)

.PHONY: test-sync
test-sync: $(BUILT) $(VENV)/.extra-test ## Run the Python tests with loops in greenlets, as where hybridloop.sync is used
	HYBRIDLOOP_TEST_SYNC=1 $(PY) -m pytest tests $(PYTEST_ARGS)

.PHONY: test-random
test-random: $(BUILT) $(VENV)/.extra-test ## Run the Python tests in random order (SEED=7 for that of an earlier run)
	$(PY) -m pytest tests -p randomly --randomly-seed=$(or $(SEED),default) $(PYTEST_ARGS)

# aiohttp's suite takes most of the time. That of websockets is in no archive on PyPI, but in a
# checkout: make test-suites SUITES="websockets --source websockets=../websockets"
.PHONY: test-suites
test-suites: $(BUILT) ## Run other libraries' test suites on hybridloop and asyncio, compare (SUITES="anyio")
	$(PY) -m tests.suites $(SUITES)

# Only the extension is built with AddressSanitizer, so its runtime has to be there before Python,
# and Python has to take each object from it. The sources are copied, for the extension stands among them.
# Left out: what measures the memory of the process, which freed memory kept aside makes larger, and
# what has many busy kernels compete, which takes too long; what builds crates, for the compiler would run
# with the checks as well; what forks, because with gcc 12 a child may wait for ever for a lock of the
# allocator that a thread of its parent held; and what limits the memory of a process, because the
# allocator ends one that gives it none.
ASAN_LEFT_OUT := -k "not fork and not child" --ignore=tests/native/test_bus_rights.py --ignore=tests/native/test_rust_kernels.py \
	--ignore=tests/native/test_projects.py \
	--ignore=tests/awaitables/test_rust.py --ignore=tests/awaitables/test_runtimes.py --ignore=tests/awaitables/test_benchmark.py \
	--deselect=tests/native/test_memory_limits.py::test_a_process_without_memory_raises_memory_errors \
	--deselect=tests/loop/test_timers.py::test_cancelled_far_timers_give_their_memory_back \
	--deselect=tests/loop/test_timers.py::test_far_timers_cancelled_in_one_go_give_their_memory_back
ASAN := $(TARGET_DIR)/asan
.PHONY: test-asan
test-asan: $(PY) $(VENV)/.extra-test | check-tools ## Run the tests that work with memory under AddressSanitizer (MEMORY_TESTS=...)
	@[ -e "$$(cc -print-file-name=libasan.so)" ] || { \
		echo "AddressSanitizer needs its runtime, which comes with gcc: sudo apt install gcc" >&2; exit 1; }
	RUSTC_BOOTSTRAP=1 RUSTFLAGS=-Zsanitizer=address PYO3_BUILD_EXTENSION_MODULE=1 \
		CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_OPT_LEVEL=1 $(CARGO) build --release -p hybridloop \
		--target-dir "$(ASAN)" --target "$$(rustc -vV | sed -n 's/^host: //p')"
	@rm -rf "$(ASAN)/tree" && mkdir -p "$(ASAN)/tree"
	@cp -r hybridloop tests benchmarks docs examples include pyproject.toml "$(ASAN)/tree"
	@rm -f "$(ASAN)"/tree/hybridloop/*.so
	@cp "$(ASAN)/$$(rustc -vV | sed -n 's/^host: //p')/release/lib_core.so" \
		"$(ASAN)/tree/hybridloop/_core$$($(PY) -c 'import sysconfig; print(sysconfig.get_config_var("EXT_SUFFIX"))')"
	cd "$(ASAN)/tree" && LD_PRELOAD="$$(cc -print-file-name=libasan.so)" PYTHONMALLOC=malloc \
		ASAN_OPTIONS="detect_leaks=0:allocator_may_return_null=1 $(ASAN_OPTIONS)" $(abspath $(PY)) -m pytest \
		$(MEMORY_TESTS) $(ASAN_LEFT_OUT) $(PYTEST_ARGS)

# Python fills what it frees, and looks for what was written beside an object; it checks that its
# functions are called with the GIL held.
.PHONY: test-malloc-debug
test-malloc-debug: $(BUILT) $(VENV)/.extra-test ## Run the tests that work with memory with Python's checks of its allocator
	PYTHONMALLOC=debug $(PY) -X faulthandler -m pytest $(MEMORY_TESTS) $(PYTEST_ARGS)

# For example: make test-debug-python PYTHON=python3.14-dbg VENV=.venv-dbg (Debian: python3-dbg).
.PHONY: test-debug-python
test-debug-python: $(BUILT) $(VENV)/.extra-test ## Run the same tests on a debug build of Python, and look for references that stay
	@$(PY) -c 'import sys; sys.gettotalrefcount()' 2>/dev/null || { \
		echo "$(PYTHON) is no debug build of Python; Debian has them: sudo apt install python3-dbg" >&2; exit 1; }
	$(PY) -m pytest $(MEMORY_TESTS) $(PYTEST_ARGS)

.PHONY: lint
lint: lint-rust lint-python lint-spelling ## Check format, lints, types, import rules and spelling

.PHONY: lint-rust
lint-rust: $(PY) | check-lint-tools ## Check the Rust code: rustfmt, clippy, layers
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	@# The crates outside of the workspace have lock files of their own, which builds would change.
	for lock in $$(git ls-files '*/Cargo.lock'); do \
		$(CARGO) metadata --locked --format-version 1 --manifest-path "$${lock%.lock}.toml" >/dev/null || exit 1; done
	RUSTFLAGS="--cfg loom" $(CARGO) clippy -p hybridloop-sync -p hybridloop-kernels --test loom \
		--target-dir "$(TARGET_DIR)/loom" -- -D warnings -A clippy::pedantic -A clippy::unwrap_used
	$(PY) tests/lint/rust_layers.py

.PHONY: lint-python
lint-python: $(BUILT) $(VENV)/.extra-test $(VENV)/.extra-bench $(VENV)/.extra-lint ## Check the Python code: ruff, import rules, mypy, stubs
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(VENV)/bin/lint-imports --no-cache
	$(PY) -m mypy
	$(PY) -m mypy.stubtest hybridloop \
		--allowlist tests/stubtest-allowlist.txt --ignore-unused-allowlist

.PHONY: lint-spelling
lint-spelling: $(VENV)/.extra-lint ## Check the spelling of code, comments and documents
	$(VENV)/bin/codespell

# Free-threaded Pythons need not be here to see whether the code for them compiles: PyO3 is told about one.
.PHONY: lint-free-threaded
lint-free-threaded: | check-lint-tools ## Check the Rust code as it is compiled for free-threaded Python 3.14
	@mkdir -p "$(TARGET_DIR)/free-threaded"
	@printf '%s\n' implementation=CPython version=3.14 shared=true abi3=false pointer_width=64 \
		build_flags=Py_GIL_DISABLED suppress_build_script_link_lines=true \
		> "$(TARGET_DIR)/free-threaded/python.txt"
	PYO3_CONFIG_FILE="$(abspath $(TARGET_DIR))/free-threaded/python.txt" $(CARGO) clippy -p hybridloop \
		--target-dir "$(TARGET_DIR)/free-threaded" -- -D warnings

.PHONY: format
format: $(VENV)/.extra-lint | check-lint-tools ## Format the Rust and Python code
	$(CARGO) fmt --all
	$(PY) -m ruff check --fix
	$(PY) -m ruff format

##### Continuous integration: what the workflows in .github run, step by step

.PHONY: ci-lint
ci-lint: lint lint-free-threaded ci-rustdoc ## All lints

.PHONY: ci-test
ci-test: test demo ## The tests and the demo on PYTHON

.PHONY: ci-rustdoc
ci-rustdoc: $(PY) | check-tools ## Build the Rust documentation; a warning is an error
	RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" $(CARGO) doc --workspace --no-deps --document-private-items --target-dir "$(TARGET_DIR)/doc"

.PHONY: ci-msrv
ci-msrv: $(PY) ## Check that the oldest supported Rust compiles everything
	rustup toolchain install 1.$(MIN_RUST) --profile minimal
	$(CARGO) +1.$(MIN_RUST) check --workspace --target-dir "$(TARGET_DIR)/msrv"

# What cargo publishes are the crates for authors of extensions: they are packaged together, and each is compiled from its package.
CRATES := -p hybridloop-kernel -p hybridloop-kernel-macros -p hybridloop-async -p hybridloop-async-macros
.PHONY: ci-package
ci-package: $(PY) | check-tools ## Check that the crates for authors of extensions can be published, and their documentation
	@minor="$$($(CARGO) --version)"; minor="$${minor#cargo 1.}"; [ "$${minor%%.*}" -ge 90 ] || { \
		echo "packaging crates together needs cargo 1.90 or newer; with rustup: rustup update stable" >&2; exit 1; }
	$(CARGO) package --allow-dirty $(CRATES) --target-dir "$(TARGET_DIR)/package"
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --no-deps $(CRATES) --target-dir "$(TARGET_DIR)/package"

# Works on a copy, because it writes Cargo.lock.
.PHONY: ci-minimal-versions
ci-minimal-versions: $(PY) ## Check that the oldest versions of the Rust dependencies do that the manifests allow
	rustup toolchain install nightly --profile minimal
	rm -rf "$(TARGET_DIR)/minimal" && mkdir -p "$(TARGET_DIR)/minimal"
	git ls-files -z | xargs -0 cp --parents -P -t "$(TARGET_DIR)/minimal"
	cd "$(TARGET_DIR)/minimal" && $(CARGO) +nightly update -Z direct-minimal-versions && $(CARGO) +nightly check --workspace

.PHONY: ci-deny
ci-deny: ## Check licences, advisories and duplicates of the Rust dependencies
	@cargo deny --version >/dev/null 2>&1 || { \
		echo "cargo-deny is not there: cargo install --locked cargo-deny" >&2; exit 1; }
	cargo deny check

.PHONY: ci-coverage
ci-coverage: $(BUILT) $(VENV)/.extra-test $(VENV)/.extra-coverage ## Measure which lines of the Python package the tests run
	$(PY) -m coverage run --source=hybridloop -m pytest tests $(PYTEST_ARGS)
	$(PY) -m coverage report

.PHONY: ci-wheel
ci-wheel: wheel wheel-abi sdist ## Build what is released

##### Measure

ifneq ($(BENCH_PYTHON),)
NEWEST := for minor in $$(seq 40 -1 $(MIN_PYTHON)); do \
	"python3.$$minor" -c "" 2>/dev/null && echo "python3.$$minor" && break; done
CHOSEN := $(if $(filter newest,$(BENCH_PYTHON)),$(shell $(NEWEST)),$(BENCH_PYTHON))
CHOSEN_VERSION := $(shell "$(CHOSEN)" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
.PHONY: bench bench-quick bench-others
bench bench-quick bench-others:
	@$(MAKE) --no-print-directory $@ PYTHON="$(CHOSEN)" VENV=".venv-bench-$(CHOSEN_VERSION)" BENCH_PYTHON=
else
.PHONY: bench
bench: $(BUILT) $(VENV)/.extra-bench | check-bench-tools ## Compare the loops, write docs/benchmarks (BENCH_PYTHON=newest)
	$(PY) -m benchmarks $(BENCH_ARGS)

.PHONY: bench-quick
bench-quick: $(BUILT) $(VENV)/.extra-bench | check-bench-tools ## Run a short benchmark for a first impression
	$(PY) -m benchmarks --quick $(BENCH_ARGS)

.PHONY: bench-others
bench-others: $(BUILT) $(VENV)/.extra-bench ## Run other loops' own benchmarks with hybridloop in their place
	$(PY) -m benchmarks.others $(BENCH_ARGS)
endif

.PHONY: bench-unexplained
bench-unexplained: $(BUILT) $(VENV)/.extra-bench ## Name the slower rows in docs/benchmarks that have no reason yet
	$(PY) -m benchmarks.unexplained

.PHONY: bench-gate
bench-gate: $(BUILT) ## Compare the instructions of the hot paths with the baseline of this Python (needs valgrind)
	$(PY) -m benchmarks.gate $(BENCH_ARGS)

##### Set up

.PHONY: clean
clean: ## Remove everything that was built, and the virtual environment
	rm -rf "$(TARGET_DIR)" "$(VENV)" .venv-suites-* dist packages/abi/build packages/abi/*.egg-info .coverage .pytest_cache .mypy_cache .ruff_cache
	rm -f hybridloop/*.so
	find hybridloop tests benchmarks examples -name __pycache__ -type d -prune -exec rm -rf {} +

$(PY): | check-tools
	@echo "Making the virtual environment $(VENV)"
	@$(PYTHON) -m venv --clear "$(VENV)"

$(VENV)/.maturin: pyproject.toml $(PY)
	@echo "Installing maturin into $(VENV)"
	@$(PY) -m pip install -q "$$($(PY) -c 'import tomllib; \
		print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"])')"
	@touch $@

$(BUILT): $(BUILD_INPUTS) $(VENV)/.maturin | check-tools
	@echo "Building hybridloop in release mode; the first time takes a minute or two"
	@PIP_QUIET=1 VIRTUAL_ENV="$(abspath $(VENV))" $(VENV)/bin/maturin develop --release
	@$(PY) -c 'import hybridloop._core; print(hybridloop._core.__file__)' > $@

# The extras are read from pyproject.toml, so that each is written down once.
$(VENV)/.extra-%: pyproject.toml $(PY)
	@echo "Installing what the extra '$*' needs into $(VENV)"
	@$(PY) -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb")) \
		["project"]["optional-dependencies"]["$*"], sep="\n")' > "$@.txt"
	@$(PY) -m pip install -q -r "$@.txt"
	@touch $@

# Name everything that is missing at once, with the way to get it, before anything else runs.
.PHONY: check-tools
check-tools:
	@ok=1; \
	missing() { ok=; echo "hybridloop needs $$1" >&2; shift; printf '    %s\n' "$$@" >&2; }; \
	rust="$$(rustc --version 2>/dev/null)"; minor="$${rust#rustc 1.}"; minor="$${minor%%.*}"; \
	if [ -z "$$rust" ] || ! $(CARGO) --version >/dev/null 2>&1; then \
		missing "Rust 1.$(MIN_RUST) or newer, with cargo; there is none on the PATH:" \
			"install rustup from https://rustup.rs, then open a new shell"; \
	elif [ "$$minor" -lt $(MIN_RUST) ]; then \
		missing "Rust 1.$(MIN_RUST) or newer; this is $$rust:" \
			"with rustup:    rustup update stable" \
			"without rustup: install it from https://rustup.rs"; \
	fi; \
	if ! "$(PYTHON)" -c "" 2>/dev/null; then \
		missing "Python 3.$(MIN_PYTHON) or newer; there is no $(PYTHON) that runs:" \
			"Debian 12+, Ubuntu 24.04+: sudo apt install python3 python3-venv" \
			"macOS:                     brew install python" \
			"under another name:        make PYTHON=python3.12 ..."; \
	elif ! "$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, $(MIN_PYTHON)))'; then \
		missing "Python 3.$(MIN_PYTHON) or newer; $(PYTHON) is $$("$(PYTHON)" --version 2>&1):" \
			"a newer one is installed:  make PYTHON=python3.12 ..." \
			"Debian 12+, Ubuntu 24.04+: sudo apt install python3 python3-venv" \
			"macOS:                     brew install python" \
			"elsewhere:                 pyenv (https://github.com/pyenv/pyenv) builds any version"; \
	elif ! "$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null; then \
		missing "the modules venv and ensurepip of $(PYTHON):" \
			"Debian, Ubuntu: sudo apt install python3-venv"; \
	elif [ "$(origin PYTHON)" != file ] && [ -x "$(PY)" ] && \
		[ "$$("$(PYTHON)" $(MINOR_VERSION))" != "$$($(PY) $(MINOR_VERSION))" ]; then \
		missing "another virtual environment: $(VENV) has $$($(PY) --version)," \
			"but PYTHON is $(PYTHON). For both side by side: make VENV=.venv-other ..."; \
	fi; \
	if ! cc --version >/dev/null 2>&1; then \
		missing "a C compiler, as Rust's linker; cc does not run:" \
			"Debian, Ubuntu: sudo apt install build-essential" \
			"macOS:          xcode-select --install"; \
	fi; \
	[ -n "$$ok" ]

.PHONY: check-lint-tools
check-lint-tools: | check-tools
	@$(CARGO) fmt --version >/dev/null 2>&1 && $(CARGO) clippy --version >/dev/null 2>&1 || { \
		echo "hybridloop's lints need rustfmt and clippy:" >&2; \
		echo "    with rustup: rustup component add rustfmt clippy" >&2; exit 1; }

.PHONY: check-bench-tools
check-bench-tools: | $(PY)
	@ok=1; \
	missing() { ok=; echo "hybridloop's benchmarks need $$1" >&2; echo "    $$2" >&2; }; \
	include="$$($(PY) -c 'import sysconfig; print(sysconfig.get_path("include"))')"; \
	[ -e "$$include/Python.h" ] || \
		missing "the C headers of $(PYTHON)" "Debian, Ubuntu: sudo apt install python3-dev"; \
	command -v wrk >/dev/null || \
		missing "wrk" "Debian, Ubuntu: sudo apt install wrk    macOS: brew install wrk"; \
	[ -n "$$ok" ]
