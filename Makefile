# `make help` lists the targets. On a fresh machine with Python 3.11 and a C++ compiler each does its own set-up.
SHELL := bash
.DEFAULT_GOAL := help
.PHONY: help demo test test-gpu gpu-proof test-hostile test-slurm test-containers bench lint lock config-docs images sif images-lock FORCE

SNAKEMAKE = .venvs/train/bin/snakemake --profile local

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: .venvs/train $(wildcard .venvs/detection) ## the whole pipeline on a generated miniature, on the CPU or a GPU; prints where the report is
	$(SNAKEMAKE) --configfile config/demo.yaml -- all
	@echo "report: $(CURDIR)/demo/results/report/index.html"

# Tests of commands wait now and then: a process more than there are cores.
test: .venvs/dev .venvs/train .venvs/detection .venvs/recordio ## the test suite, on up to four cores
	.venvs/dev/bin/pytest --numprocesses $$(($$(nproc) < 4 ? $$(nproc) + 1 : 4)) --dist loadfile --no-loadscope-reorder

test-gpu: .venvs/dev ## the tests that need an NVIDIA GPU
	.venvs/dev/bin/pytest -m gpu

gpu-proof: .venvs/dev ## what is claimed of a GPU, measured on this machine's in at most 8 minutes, into gpu-proof/
	.venvs/dev/bin/python -m benchmarks.gpu_proof --out gpu-proof $(ARGS)

test-hostile: .venvs/dev .venvs/detection ## kills, stops and orphans of every stage, for hours; prints what was tried and held
	.venvs/dev/bin/python -m tests.hostile
	.venvs/detection/bin/python -m tests.hostile

bench: .venvs/dev ## the benchmarks, as JSON on stdout
	.venvs/dev/bin/python -m benchmarks.bench_step
	.venvs/dev/bin/python -m benchmarks.bench_views
	.venvs/dev/bin/python benchmarks/bench_extract.py --repeats 7
	.venvs/dev/bin/python benchmarks/bench_lmdb.py
	.venvs/dev/bin/python benchmarks/bench_memory.py

test-slurm: .venvs/dev .venvs/train ## runs on a real Slurm of two nodes on this machine, ONLY=demo for one; needs root and Debian
	tests/slurm/run.sh '$(ONLY)'

test-containers: .venvs/train .venvs/detection ## builds the images without a registry and runs the demo in them; needs 45 GB
	tests/containers/run.sh

lint: .venvs/dev ## ruff, ruff format, mypy, the layers of slimclr/, snakefmt, snakemake --lint, hadolint, shellcheck
	.venvs/dev/bin/ruff check .
	.venvs/dev/bin/ruff format --check .
	.venvs/dev/bin/mypy
	.venvs/dev/bin/python -m tools.house
	.venvs/dev/bin/python -m tools.import_graph --check
	.venvs/dev/bin/snakefmt --check Snakefile workflow
	.venvs/dev/bin/snakemake --lint
	.venvs/dev/bin/hadolint containers/*.Dockerfile
	.venvs/dev/bin/shellcheck .ci/run $(wildcard */*.sh */*/*.sh)

# Later locks see the earlier ones, so that the environments share their versions.
lock: .venvs/train ## renew envs/*.lock from envs/*.in
	envs/lock.sh

images: ## the container images, with docker, podman or buildah; BASE=<root file system> where no registry is reached
	containers/build.sh images

sif: ## the same as SIF files, with apptainer
	containers/build.sh sif

images-lock: ## check the images' digests at their registries, and write those that the tags have moved on to
	containers/build.sh lock

config-docs: .venvs/train ## renew config/README.md, config/schema.json, docs/import_graph.svg, the table of jobs in docs/slurm.md
	.venvs/train/bin/slimclr schema --markdown > config/README.md
	.venvs/train/bin/slimclr schema > config/schema.json
	.venvs/train/bin/python docs/resources.py
	.venvs/train/bin/python -m tools.import_graph

.venvs/%: FORCE
	@envs/install.sh $*
