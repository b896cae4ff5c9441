# SmallPlan. `make demo` runs the main job, `make test` passes the tests; both set up what they need in .venv.
#
# To use the workspace by hand, in bash or zsh:   source scripts/env.sh
# It puts .venv and install/ on the paths, beside a ROS 2 that is sourced. With a sourced ROS 2, `ros2 run` and
# `ros2 launch` need no more than `source install/setup.bash`: executables start under .venv by themselves.

SHELL := /bin/bash
.DEFAULT_GOAL := help
WORKSPACE := command -v python3 >/dev/null || { echo 'set-up needs Python; install with' \
	'sudo apt-get install -y python3 python3-venv python3-dev build-essential git'; exit 1; } && \
	python3 scripts/workspace.py
ENV := source scripts/env.sh &&

HOUSE ?=
TARGET ?=
SEED ?=
ARGS ?=

.PHONY: help check setup setup-training setup-test igibson demo nano train soak test test-igibson lint typecheck clean
.PHONY: distclean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 18

check: ## whether this machine has what set-up needs
	@$(WORKSPACE) check

setup: ## .venv with ROS 2 (unless one is sourced) and llama.cpp, the `smallplan` script, install/
	@$(WORKSPACE) setup

setup-training: ## the same and PyTorch; TORCH_INDEX=<url> takes it from there
	@$(WORKSPACE) training

setup-test:
	@$(WORKSPACE) test

igibson: setup ## iGibson 2.2.2 in .venv-igibson (Python 3.8 to 3.10), rendering in software where there is no GPU
	@$(ENV) python scripts/igibson_setup.py

demo: setup ## a simulated robot searches a house: HOUSE=<json> TARGET=<name> SEED=<n>
	@$(ENV) smallplan demo $(if $(HOUSE),--house "$(HOUSE)") $(if $(TARGET),--target "$(TARGET)") \
		$(if $(SEED),--seed "$(SEED)")

nano: setup-training ## train the default model from nothing
	@$(ENV) smallplan nano

train: setup-training ## train a policy: ARGS="--base Qwen/Qwen2.5-3B-Instruct --samples build/samples.jsonl"
	@$(ENV) smallplan train $(ARGS)

soak: setup ## 5,000 decisions in one process: does memory grow, do they get slower? build/soak.json
	@$(ENV) smallplan bench --soak --json build/soak.json $(ARGS)

test: setup-test $(if $(filter 1,$(SMALLPLAN_IGIBSON)),igibson) ## lint, types, all tests; SMALLPLAN_IGIBSON=1: sets iGibson up for those that need it
	@$(MAKE) --no-print-directory lint typecheck
	@$(ENV) python -m pytest $(wildcard test/unit test/ros test/e2e)

test-igibson: setup-test igibson ## the tests that need iGibson; `make test` runs them where it is set up
	@$(ENV) SMALLPLAN_IGIBSON=1 python -m pytest $(wildcard test/unit/training/simulators/igibson)

lint: setup-test ## ruff
	@$(ENV) ruff check .

typecheck: setup-test ## mypy
	@$(ENV) mypy

clean: ## remove what was built, not .venv
	rm -rf build install log .venv/.stamps/colcon

distclean: clean ## and .venv, .venv-igibson
	rm -rf .venv .venv-igibson
