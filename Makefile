# Needs Python 3.11 and make, nothing else: every package comes as a wheel, at the version that requirements.txt pins.
PYTHON ?= python3.11
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.complete

.DEFAULT_GOAL := help
# Where Python may not write bytecode, every process would compile again what it imports: 20 s each.
unexport PYTHONDONTWRITEBYTECODE
.PHONY: help env demo lab notebooks site test test-fork format gpu gpu-kit

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

env: $(STAMP) ## make or renew the environment in .venv/ (about 6 GB)

demo: env ## train a baseline and a distilled student and compare them
	$(BIN)/gdetkd demo

lab: env ## open the notebooks in JupyterLab
	$(BIN)/jupyter lab $(firstword $(wildcard notebooks/[0-9]*.ipynb) notebooks)

notebooks: env ## run all notebooks (or NB=FILE) and keep their outputs; renew their index
	$(BIN)/python tests/run_notebooks.py $(NB)

site: env ## make build/site/, all pages and notebooks with search and the API, to open from disk (a minute)
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going -c docs . build/site
	@echo "Open build/site/README.html"

test: env ## check the style and run all tests, two files at a time (half an hour)
	$(BIN)/ruff check .
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# OneDL's fork of MMDetection keeps the name mmdet. Of its mmcv there is no wheel, and a build compiles its operators:
# mmcv-lite stays. What is installed here is pure Python.
FORK := build/fork

test-fork: env ## run MMDetection's tests on its living fork (seven minutes)
	rm -rf $(FORK)
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --target $(FORK) \
	  imaug==0.4.3 onedl-mmdetection==3.5.1 onedl-mmengine==0.10.12
	PYTHONPATH=$(FORK) $(BIN)/python -m pytest -n 2 --dist loadfile tests/test_detectors_mmdet_*.py \
	  tests/test_checkpoints.py tests/test_hostile_checkpoints.py tests/test_mini_training.py tests/test_configs.py

# What a machine with a GPU, Python 3.12 and PyTorch, but no network, may lack: 9 MB of wheels. The other packages that
# gdetkd needs come with PyTorch's usual company: OpenCV, pandas, SciPy, scikit-image, matplotlib, rich, click, pytest.
KIT        := build/gpu-kit
KIT_PINNED := addict|mlxtend|mmcv-lite|mmdet|mmengine|platformdirs|pycocotools|setuptools|shapely|termcolor|terminaltables|yapf
KIT_PEERS  := cut-cross-entropy==25.1.1 inf-cl==1.2.1
KIT_FOR    := --python-version 3.12 --implementation cp $(addprefix --platform ,manylinux_2_28_x86_64 \
              manylinux_2_24_x86_64 manylinux_2_17_x86_64 manylinux2014_x86_64)
GPU_PYTHON ?= python3
MINUTES    ?= 8
OUT        ?= work_dirs/gpu

gpu-kit: env ## pack what `make gpu` needs on a machine without a network, into build/gpu-kit/
	rm -rf $(KIT) && mkdir -p $(KIT)
	$(BIN)/python -m pip download --quiet --no-deps --only-binary :all: $(KIT_FOR) -d $(KIT) $(KIT_PEERS) \
	  $$(grep -oE '^($(KIT_PINNED))==[^ ]+' requirements.txt)
	git describe --always --exclude '*' --abbrev=12 --dirty=+ > $(KIT)/commit
	@du -sh $(KIT)

# Without a kit, GPU_PYTHON has all packages: make gpu GPU_PYTHON=.venv/bin/python
gpu: ## measure on a GPU, in MINUTES, into the folder OUT; `gdetkd gpu --merge` takes the results over
	rm -rf build/gpu-site && mkdir -p build/gpu-site
	@if [ -d $(KIT) ]; then $(GPU_PYTHON) -m pip install --quiet --no-index --no-deps --no-compile --target build/gpu-site $(KIT)/*.whl; fi
	@cp gdetkd/gdetkd_startup.pth build/gpu-site/sitecustomize.py
	GDETKD_COMMIT=$$(cat $(KIT)/commit 2>/dev/null) PYTHONPATH="$(CURDIR):$(CURDIR)/build/gpu-site" \
	  $(GPU_PYTHON) -m gdetkd.cli gpu --minutes $(MINUTES) --out "$(OUT)"

format: env ## fix what ruff can fix, and format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# A working environment is updated; a broken one (interrupted, its Python gone) is created again.
$(STAMP): requirements.txt pyproject.toml
	@$(BIN)/python -c 'import pip, sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null || { \
	  $(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null || { \
	    echo "gdetkd needs Python 3.11, and '$(PYTHON)' is not that. Install it," \
	         "or say where it is: make env PYTHON=/path/to/python3.11" >&2; exit 1; }; \
	  $(PYTHON) -m venv --clear $(VENV) || { \
	    echo "'$(PYTHON)' could not make a virtual environment: on Debian and Ubuntu install" \
	         "python3.11-venv." >&2; exit 1; }; }
	@echo 'Installing what requirements.txt pins into $(VENV)/: a few minutes the first time.'
	@# Of 23,000 modules, those are compiled that the commands import; others when first imported.
	@# Two at a time: PyTorch with its CUDA libraries takes about as long as all the others.
	@awk '/^[^ ]/ { of = /^(cuda|nvidia|torch|triton)/ ? "torch" : "others" } { print > "$(VENV)/" of ".txt" }' requirements.txt
	@printf '%s\n' torch others | xargs -P 2 -I % $(BIN)/python -m pip install --quiet --no-compile \
	  --no-deps --only-binary :all: --require-hashes -r $(VENV)/%.txt
	@$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	@$(BIN)/python -m pip check
	@$(BIN)/python -W ignore -c 'import mmdet.apis, mmengine.runner, torchvision.models.detection, transformers'
	@touch $@
