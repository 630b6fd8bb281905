# Two commands: `make demo` runs the whole paper in miniature, `make test` the test suite. Both make their own .venv.
PYTHON ?= python3
CORES ?= 2
CONFIG ?= config/config.yaml
# requirements-cuda.lock pins what torch's CUDA build brings as well
LOCK ?= requirements.lock
VENV := .venv
BIN := $(VENV)/bin
SOURCES := Snakefile

.PHONY: demo has-config test lint lock gpu-check clean-venv help
.DEFAULT_GOAL := help

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1|/p' $(MAKEFILE_LIST) | column -t -s '|'

# Asked again after a kill -9 it goes on. --nolock: a killed Snakemake leaves its lock behind; every stage folder has a
# lease of its own, which dies with its holder. --ignore-incomplete: Snakemake would delete and repeat what it did not
# see end, but a folder with a manifest is whole, and one without is made (or gone on with) anyway.
demo: has-config $(VENV)/run.stamp  ## data, training, evaluation, tables, figures, report: the miniature, or CONFIG=...
	LIGHTNINGRL_RESULTS_LATER=1 $(BIN)/python -m snakemake --cores $(CORES) --ignore-incomplete --nolock --quiet rules --configfile $(CONFIG)
	@$(BIN)/python -m lightningrl results --config $(CONFIG)

has-config:
	@test -f "$(CONFIG)" || { echo 'error: CONFIG=$(CONFIG) does not exist; give the file of an experiment, as config/nano.yaml' >&2; exit 2; }

# Three processes: one mostly waits for Slurm. Time limits are in tests/fixtures/limits.py.
test: $(VENV)/dev.stamp  ## the test suite
	$(BIN)/python -m pytest -q -n 3 --dist loadfile --no-loadscope-reorder

lint: $(VENV)/dev.stamp  ## style, types, workflow files
	$(BIN)/python -m ruff check .
	$(BIN)/python -m snakefmt --check --line-length 120 $(SOURCES)
	$(BIN)/python -m pyright

$(VENV)/run.stamp: $(LOCK) requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --requirement $(LOCK)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --editable .
	touch $@

$(VENV)/dev.stamp: $(VENV)/run.stamp requirements-dev.lock
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --requirement requirements-dev.lock
	touch $@

# Pinned versions only, no index addresses. Local builds (+cpu) and what torch itself brings for CUDA stay out, so that
# requirements.lock serves both the CPU and the CUDA wheel. requirements-dev.lock is what the dev extra adds, Triton too;
# requirements-cuda.lock what the CUDA wheel of the locked torch does, from its metadata: uv downloads no wheel for that.
lock:  ## resolve pyproject.toml anew into the three locks and workflow/envs
	rm -rf $(VENV)-lock && $(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/python -m pip install --quiet .
	$(VENV)-lock/bin/python -m pip freeze --exclude lightningrl | sed 's/+[a-z0-9.]*$$//' \
	    | grep -Ev '^(nvidia-|cuda-|triton)' > requirements.lock
	$(VENV)-lock/bin/python -m pip install --quiet --constraint requirements.lock '.[dev]'
	$(VENV)-lock/bin/python -m pip freeze --exclude lightningrl | sed 's/+[a-z0-9.]*$$//' \
	    | grep -Ev '^(nvidia-|cuda-)' | grep -Fxvf requirements.lock > requirements-dev.lock
	$(VENV)-lock/bin/python -m pip install --quiet uv
	{ sed -n '/^[#-]/p' requirements-cuda.lock; $(VENV)-lock/bin/uv pip compile --quiet --no-config --no-header \
	    --no-annotate --python-platform x86_64-manylinux_2_28 --python-version 3.11 requirements.lock \
	    | grep -E '^(nvidia-|cuda-|triton)'; } > requirements-cuda.lock.new
	mv requirements-cuda.lock.new requirements-cuda.lock
	$(VENV)-lock/bin/python workflow/envs/write.py
	rm -rf $(VENV)-lock

# Each part takes 8 minutes at most; asked again it goes on. Figures: gpu-check/; `bench gpu-page` makes a page of them.
gpu-check: $(VENV)/dev.stamp  ## on a CUDA machine: everything that wants a GPU; PART=... for one part of it
	$(BIN)/python -m lightningrl bench gpu $(foreach part,$(PART),--part $(part)) $(if $(SIZE),--size $(SIZE)) \
	    $(if $(CHECKPOINT),--checkpoint $(CHECKPOINT)) $(if $(OUT),--out $(OUT))

clean-venv:  ## forget the virtual environment
	rm -rf $(VENV)
