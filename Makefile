# Most targets run one command of `sppnet`; see README.md and docs/reproducing.md.
PYTHON ?= python3
VENV ?= .venv
# Address of a second pip index, for example of an index that offers torch without CUDA.
EXTRA_INDEX ?=
DATASET ?=
VOC_ROOT ?= datasets/VOCdevkit
BACKBONE ?=
WEIGHTS ?=
PRESET ?=
RUN ?=
JOBS ?= -1
# Address of a Dask scheduler for `make proposals`, tcp://host:8786; without it, local processes.
SCHEDULER ?=
LIMIT ?= 0
# Folders of classifiers for `make classify`.
MODELS ?=
# Labelled images to test the classifiers on; without them, give images to classify: ARGS="--images photos/".
LABELLED ?=
# Images by class, FOLDER/<class>/<image>, for `make pretrain`, and for `make classify-svm` instead of DATASET.
DATA ?=
# Runs for `make combine`, for example RUNS="one two".
RUNS ?=
# More flags for the command, for example ARGS="--set features.scales=[688]".
ARGS ?=

bin := $(VENV)/bin
preset := $(if $(PRESET),--preset "$(PRESET)")
data := --dataset "$(DATASET)" --voc-root "$(VOC_ROOT)" $(preset) --limit $(LIMIT)
run := $(data) --backbone "$(BACKBONE)" --run "$(RUN)"
# The subpackages are folders at the top; $(VENV)/links joins them as one package for type checkers and editors.
rooms := common data detection eval proposals svm sppnet/__init__.py sppnet/__main__.py sppnet/cli sppnet/py.typed
# The head that scores proposals: pool5, fc6, fc7 or softmax.
HEAD ?= pool5

.PHONY: setup detect eval classify classify-svm combine compare proposals eval-proposals train finetune pretrain distill test stress lint docs bench bench-proposals bench-cache clean
.DEFAULT_GOAL := help

.PHONY: help
help:
	@echo "make detect | eval | classify | classify-svm | combine | compare | proposals | eval-proposals | train | finetune | pretrain | distill | test | stress | lint | docs | bench | bench-proposals | bench-cache | setup    (see README.md)"

setup: $(VENV)/.installed

# The stamp file is written last, so an interrupted set-up runs again; pip then takes the packages from its cache.
$(VENV)/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make PYTHON=python3.11 ..." if sys.version_info < (3, 11) else 0)'
	$(bin)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(bin)/python -m pip install --quiet --disable-pip-version-check $(if $(EXTRA_INDEX),--extra-index-url "$(EXTRA_INDEX)") -e '.[dev]'
	rm -rf $(VENV)/links
	mkdir -p $(VENV)/links/sppnet
	for room in $(rooms); do ln -s "$(CURDIR)/$$room" $(VENV)/links/sppnet/; done
	touch $@

detect: setup
	$(bin)/sppnet detect $(run) --weights "$(WEIGHTS)" --jobs $(JOBS) --head $(HEAD) $(ARGS)

eval: setup
	$(bin)/sppnet eval $(run) --head $(HEAD) $(ARGS)

classify: setup
	$(bin)/sppnet $(if $(LABELLED),test-classifier,classify) $(MODELS) $(if $(LABELLED),--labelled "$(LABELLED)") --limit $(LIMIT) $(ARGS)

classify-svm: setup
	$(bin)/sppnet $(if $(DATA),classify-svm-folder --data "$(DATA)",classify-svm --dataset "$(DATASET)" --voc-root "$(VOC_ROOT)") --backbone "$(BACKBONE)" --weights "$(WEIGHTS)" --run "$(RUN)" $(if $(filter-out 0,$(LIMIT)),--limit $(LIMIT)) $(ARGS)

combine: setup
	$(bin)/sppnet combine $(RUNS) --dataset "$(DATASET)" --voc-root "$(VOC_ROOT)" --limit $(LIMIT) --run "$(RUN)" $(ARGS)

# Numbers of images: ARGS="--train-images 60 --test-images 40 --timed-images 3".
compare: setup
	$(bin)/sppnet compare --dataset "$(DATASET)" --voc-root "$(VOC_ROOT)" $(preset) --backbone "$(BACKBONE)" --weights "$(WEIGHTS)" --run "$(RUN)" --jobs $(JOBS) $(ARGS)

proposals: setup
	$(bin)/sppnet proposals $(data) --jobs $(JOBS) --scheduler "$(SCHEDULER)" $(ARGS)

eval-proposals: setup
	$(bin)/sppnet eval-proposals --dataset "$(DATASET)" --voc-root "$(VOC_ROOT)" --limit $(LIMIT) --jobs $(JOBS) $(ARGS)

train: setup
	$(bin)/sppnet train $(run) --weights "$(WEIGHTS)" --jobs $(JOBS) --head $(HEAD) $(ARGS)

finetune: setup
	$(bin)/sppnet finetune $(run) --weights "$(WEIGHTS)" --jobs $(JOBS) $(ARGS)

pretrain: setup
	$(bin)/sppnet pretrain $(if $(DATA),--data "$(DATA)") $(preset) --run "$(RUN)" $(if $(BACKBONE),--network "$(BACKBONE)") --weights "$(WEIGHTS)" $(ARGS)

# Trains zf5 to reproduce feature maps. TEACHER="efficientnet_lite0 576 400 288": the network and its short side for each scale.
distill: setup
	$(bin)/sppnet distill --dataset "$(DATASET)" --voc-root "$(VOC_ROOT)" --limit $(LIMIT) --run "$(or $(RUN),distilled)" $(if $(TEACHER),--teacher "$(TEACHER)") $(if $(BACKBONE),--set 'network="$(BACKBONE)"') $(if $(WEIGHTS),--set 'start="$(WEIGHTS)"') $(ARGS)

test: setup
	$(bin)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

# Kills, damaged inputs, bad surroundings and a soak: minutes on a free core. Parts of it:
# ARGS="--parts fuzzing kills --inputs 1000 --kills 30"; --help names the rest.
stress: setup
	OMP_NUM_THREADS=1 PYTHONPATH=tests/helpers $(bin)/python tests/stress/campaign.py $(ARGS)

lint: setup
	$(bin)/ruff check .
	$(bin)/ruff format --check .
	MYPYPATH=$(VENV)/links $(bin)/mypy

# Builds the site in site/. Fails on a broken link, an undocumented public name or a page that is out of date.
docs: $(VENV)/.docs-installed
	$(bin)/python docs/reference.py
	$(bin)/python -m pytest -q tests/test_docs.py
	rm -rf site
	$(bin)/python -m sphinx -W --keep-going -q -b html docs site
	@echo "site/index.html"

$(VENV)/.docs-installed: pyproject.toml $(VENV)/.installed
	$(bin)/python -m pip install --quiet --disable-pip-version-check $(if $(EXTRA_INDEX),--extra-index-url "$(EXTRA_INDEX)") -e '.[dev,docs]'
	touch $@

bench: setup
	$(bin)/python -m benchmarks.svm_solver
	$(bin)/python -m benchmarks.voc_evaluation
	$(bin)/python -m benchmarks.detector $(run) --head $(HEAD) $(ARGS)

# "-": the packages to compare with are old and may not install; the table then says so.
bench-proposals: setup
	-$(bin)/python -m pip install --quiet --disable-pip-version-check $(if $(EXTRA_INDEX),--extra-index-url "$(EXTRA_INDEX)") -e '.[dev,bench]'
	$(bin)/python -m benchmarks.proposals --dataset "$(DATASET)" --voc-root "$(VOC_ROOT)" --limit $(LIMIT) $(ARGS)

bench-cache: setup
	$(bin)/python -m benchmarks.proposal_cache $(ARGS)

clean:
	rm -rf $(VENV) build site *.egg-info .mypy_cache .ruff_cache .pytest_cache
