# VocalNet. Every target sets up all that it needs; a second run starts at once.
#
#   make demo               the app on http://localhost:7860
#   make test               all tests
#   make check              lint, format, types, import direction
#   make nano               train the default checkpoint (SCALE=smoke: a few steps of every stage)
#   make bench              speed at nano's and the published 1B's sizes -> results/bench-*.json (about ten minutes)
#   make space              a folder for a hub Space with nano inside -> build/space (MODEL_REPO=user/name: what it shows)
#   make space-check        that folder, in a fresh environment without a hub, answers a question -> results/space.json
#   make soak MINUTES=30    the app under good, bad and cancelled requests of eight programs -> results/soak.json
#   make bench-training     a step of stage 2 and its masks, and plans of memory beside measured runs -> results/*.json
#   make eval               the held-out questions -> results/eval-nano.json, and into the README and nano's model card
#
# PYTHON=python3.12 picks another interpreter, PORT=8000 another port.

PYTHON ?= python3
PORT ?= 7860
SCALE ?= full
MINUTES ?= 30
TORCH_CPU_INDEX ?= https://download.pytorch.org/whl/cpu

VENV := .venv
PY := $(VENV)/bin/python
STAMPS := $(VENV)/.stamps
VOICES := flite espeak-ng festival festvox-kallpc16k festvox-kdlpc16k festvox-us-slt-hts

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.PHONY: demo test check nano eval bench bench-training soak space space-check

demo: $(STAMPS)/requirements
	$(PY) app.py --model nano --port $(PORT)

test: $(STAMPS)/requirements-dev $(STAMPS)/voices $(STAMPS)/browser
	$(PY) -m pytest --numprocesses 2 --dist loadfile --ignore tests/browser
	$(PY) -m pytest tests/browser

check: $(STAMPS)/requirements-dev
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(PY) -m pytest tests/test_imports.py

nano: $(STAMPS)/requirements-dev $(STAMPS)/voices
	$(PY) -m train.run --scale $(SCALE)

eval: $(STAMPS)/requirements $(STAMPS)/voices
	$(PY) -m vocalnet eval --set heldout --out results/eval-nano.json
	$(PY) -m train.bundle
	$(PY) -m vocalnet report --readme README.md

space: $(STAMPS)/requirements
	$(PY) -m vocalnet space --out build/space $(addprefix --models ,$(MODEL_REPO))

space-check: space
	$(PYTHON) -m venv --clear build/fresh
	build/fresh/bin/python -m pip install -q -r build/space/requirements.txt
	$(PY) -m tests.space_check build/space --python build/fresh/bin/python --out results/space.json

bench: $(STAMPS)/requirements
	$(PY) -m vocalnet bench --preset nano --what talker --long --out results/bench-nano-talker.json
	$(PY) -m vocalnet bench --preset nano --what first-audio --out results/bench-nano-first-audio.json
	for dtype in float32 bfloat16 int8; do \
		$(PY) -m vocalnet bench --preset vocalnet-1b --what talker --dtype $$dtype \
			--out results/bench-1b-talker-$$dtype.json; \
	done
	$(PY) -m vocalnet bench --preset vocalnet-1b --what talker --heads mtp_vocalnet --tokens-per-step 3 --long \
		--repeats 3 --out results/bench-1b-long.json
	$(PY) -m vocalnet bench --preset vocalnet-1b --what token2wav --repeats 2 --out results/bench-1b-token2wav.json
	$(PY) -m vocalnet bench --preset vocalnet-1b --what waterfall --dtype bfloat16 --repeats 3 \
		--out results/bench-1b-waterfall.json
	$(PY) -m vocalnet stream --model nano --repeats 20 --results results/stream-nano.json

soak: $(STAMPS)/requirements
	$(PY) -m demo.soak --minutes $(MINUTES) --out results/soak.json

# Bars of the training framework: masks in a step of stage 2, and plans beside measured runs.
bench-training: $(STAMPS)/requirements
	$(PY) -m vocalnet bench-training --sizes nano --repeats 20 --out results/bench-training-nano.json
	$(PY) -m vocalnet bench-training --sizes vocalnet-1b --repeats 2 --out results/bench-training-1b.json
	$(PY) -m vocalnet plan --check --out results/plan-check.json

# --- set-up: one stamp per step, inside .venv so that removing it starts over ---

# $(call debian,PACKAGES): installs what is missing when root on Debian, otherwise names it and stops
define debian
missing=""; \
for name in $(1); do \
	command -v $$name >/dev/null || dpkg -s $$name >/dev/null 2>&1 || missing="$$missing $$name"; \
done; \
if [ -n "$$missing" ]; then \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends $$missing; \
	else \
		echo "Missing:$$missing. Install with: sudo apt-get install$$missing" >&2; \
		exit 1; \
	fi; \
fi
endef

$(STAMPS)/venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "VocalNet needs Python 3.11 or newer: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@if ! $(PYTHON) -c 'import ensurepip' 2>/dev/null; then $(call debian,python3-venv); fi
	$(PYTHON) -m venv $(VENV)
	@mkdir -p $(STAMPS) && touch $@

# Without an NVIDIA GPU torch comes from its own index, where reachable: the default Linux build carries gigabytes of CUDA.
$(STAMPS)/requirements: requirements.txt $(STAMPS)/venv
	@echo "Installing the requirements into $(VENV); the first time this takes a few minutes."
	@index=""; \
	if [ "$$(uname)" = Linux ] && ! command -v nvidia-smi >/dev/null && \
		$(PY) -c 'import sys, urllib.request as u; u.urlopen(sys.argv[1], timeout=5)' $(TORCH_CPU_INDEX)/torch/ 2>/dev/null; \
	then index="--extra-index-url $(TORCH_CPU_INDEX)"; fi; \
	$(PY) -m pip install -q $$index "$$(grep '^torch==' requirements.txt)"
	@$(PY) -m pip install -q -r requirements.txt
	@touch $@

$(STAMPS)/requirements-dev: requirements-dev.txt $(STAMPS)/requirements
	@echo "Installing the tools for tests and training."
	@$(PY) -m pip install -q -r requirements-dev.txt
	@touch $@

$(STAMPS)/voices: $(STAMPS)/venv
	@$(call debian,$(VOICES))
	@touch $@

$(STAMPS)/browser: $(STAMPS)/venv
	@$(call debian,chromium)
	@touch $@
