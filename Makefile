# Every target needs a Python 3.11, 3.12 or 3.13 with venv and pip, nothing else.
# Targets that run code first build an environment in .venv.

VENV := .venv
RUN := $(VENV)/bin/python

# The first that starts (a name on the PATH can be a shim that does not).
PYTHON ?= $(shell for name in python3.11 python3; do \
	"$$name" -c '' 2>/dev/null && echo "$$name" && exit; done; echo python3.11)

# Fewer notes of TensorFlow's C++ side on hardware and on the end of each data set.
export TF_CPP_MIN_LOG_LEVEL ?= 2

comma := ,

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test lint format realdata docs clean

help:  ## List the targets
	@echo "Usage: make TARGET [PYTHON=python3.12]"
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  \1\t\2/p' Makefile | expand -t 14

demo: $(VENV)/package  ## Train a small model on the bundled digits
	$(RUN) trainers/run.py

test: $(VENV)/package-dev  ## Run the tests, all but those that need image data
	$(RUN) -m pytest -m "not realdata" -n 2 --dist loadfile \
		--no-loadscope-reorder

lint: $(VENV)/package-dev  ## Check style, formatting and types
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

format: $(VENV)/package-dev  ## Reformat the code and mend what ruff can mend
	$(RUN) -m ruff format .
	$(RUN) -m ruff check --fix .

realdata: $(VENV)/package-dev  ## Run the tests on the image data in AEF_TFP_DATA_DIR
	@test -d "$$AEF_TFP_DATA_DIR" || { \
		echo "AEF_TFP_DATA_DIR must name a folder of TFDS data sets," \
			"but is '$$AEF_TFP_DATA_DIR'." >&2; exit 1; }
	$(RUN) -m pytest -m realdata -n 2 --dist worksteal

docs: $(VENV)/package-docs  ## Build the documentation into site/
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict

clean:  ## Remove the environment, builds and caches; runs/ stays
	rm -rf $(VENV) build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# `unfinished` is there from before the environment is made until the installation
# has succeeded: an interrupted one starts again from nothing. A finished one, or one
# that somebody else put there, is kept and brought up to date.
define install
@test -x $(RUN) && test ! -e $(VENV)/unfinished || { \
	echo "Making $(VENV). The first time takes minutes, 1 GB to download, 3 GB on disk."; \
	rm -rf $(VENV) && mkdir $(VENV) && touch $(VENV)/unfinished && \
	"$(PYTHON)" -m venv $(VENV); }
@echo "Installing $(1) into $(VENV)"
@touch $(VENV)/unfinished
@$(RUN) -m pip install --quiet --disable-pip-version-check --editable "$(1)"
@rm $(VENV)/unfinished && touch $(2)
endef

$(VENV)/package: setup.cfg pyproject.toml
	$(call install,.,$@)

$(VENV)/package-dev: setup.cfg pyproject.toml
	$(call install,.[dev],$@ $(VENV)/package)

$(VENV)/package-docs: setup.cfg pyproject.toml
	$(call install,.[docs],$@ $(VENV)/package)

# Both at once, for .ci/run: a second installation looks everything up once more.
$(VENV)/package-all: setup.cfg pyproject.toml
	$(call install,.[dev$(comma)docs],$@ $(VENV)/package-dev $(VENV)/package-docs \
		$(VENV)/package)
