# Thin targets over the Python modules that do the work. Plain `make` prints them.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
PY := .venv/bin/python
export PYTHONUNBUFFERED = 1
# Also libraries read and write files as UTF-8, and paths of any characters are found, whatever the locale.
export PYTHONUTF8 = 1

# One "key=value" for each variable that was given, quoted for the shell; `value` keeps make from reading a $ in it.
override_if = $(if $(value $(1)),'$(2)=$(subst ','\'',$(value $(1)))')
OVERRIDES = $(call override_if,SUITE,suite) $(call override_if,WORKLOAD,workload) $(call override_if,SUBMISSION,submission) \
            $(call override_if,RULESET,ruleset) $(call override_if,HARDWARE,hardware) $(call override_if,TRACKING,tracking) \
            $(call override_if,SEED,seed) $(call override_if,RESULTS,results) \
            $(call override_if,LAUNCHER,hydra/launcher) $(ARGS)

# Every target that has a line of help.
.PHONY: $(shell sed -nE 's/^([a-z-]+):.*## .*/\1/p' $(firstword $(MAKEFILE_LIST)))
.PHONY: no-python-in-venv

help: ## print these lines
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-17s %s\n", $$1, $$2}'

# Whether a Python is one of those that pyproject.toml names, as a line that every Python can read.
FITS = import sys; $(shell sed -nE 's/^requires-python = ">=3\.([0-9]+),<3\.([0-9]+)"/(3, \1) <= sys.version_info[:2] < (3, \2)/p' pyproject.toml) or sys.exit(1)

# The stamp is newer than what it was made from, so a second call starts at once. A .venv without it is half-made: it is
# gone on with where its Python fits and has pip, else made anew.
.venv/installed: pyproject.toml constraints.txt $(if $(wildcard $(PY)),,no-python-in-venv)
	@{ $(PY) -c '$(FITS)' && $(PY) -m pip --version; } >/dev/null 2>&1 || { \
	    $(PYTHON) -c '$(FITS)' 2>/dev/null || { \
	        echo "error: PYTHON is $(PYTHON), $$($(PYTHON) --version 2>&1 | head -1), but pyproject.toml wants" \
	            "$$(sed -nE 's/^requires-python = "(.*)"/\1/p' pyproject.toml). Name another: make PYTHON=python3.12" >&2; exit 2; }; \
	    $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	        echo "error: $(PYTHON) cannot make a .venv with pip in it. Install the package python3-venv (Debian and Ubuntu:" \
	            "apt install python3-venv, or that of its version, such as python3.12-venv)" >&2; exit 2; }; \
	    $(PYTHON) -m venv --clear .venv; }
	@echo "setting up .venv (once; about 1 GB with a CPU build of torch, more with CUDA) ..."
	@$(PY) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@
	@echo "set up: $$($(PY) --version), torch $$($(PY) -c 'import torch; print(torch.__version__)')"

bench: .venv/installed ## run what is missing and rank it: WORKLOAD=a,b SUBMISSION=x,y SUITE= RULESET= SEED= AGAINST= LAUNCHER= ARGS=
	@$(PY) -m harness.commands.bench $(OVERRIDES) $(call override_if,AGAINST,against)

status: .venv/installed ## studies done, running, failed, missing; same arguments as bench
	@$(PY) -m harness.commands.status $(OVERRIDES)

retry: .venv/installed ## run failed or disturbed trials again under new ids: STATUS=crashed, otherwise the same arguments as bench
	@$(PY) -m harness.commands.retry $(call override_if,STATUS,status) $(OVERRIDES)

reference: .venv/installed ## run what the committed boards lack, the cheapest first: BOARD= WORKLOAD=a,b SUBMISSION=x,y, STATUS=1 only looks
	@$(PY) -m harness.commands.boards.reference $(call override_if,BOARD,board) $(call override_if,WORKLOAD,workload) \
	    $(call override_if,SUBMISSION,submission) $(call override_if,STATUS,status) $(call override_if,TRACKING,tracking) \
	    $(call override_if,RESULTS,results)

leaderboard: .venv/installed ## rank what has been recorded, or BOARD=mini_plus_self: UNIT=seconds|cpu_seconds|reference_steps AGAINST=board|none
	@$(PY) -m harness.commands.leaderboard $(OVERRIDES) $(call override_if,BOARD,board) $(call override_if,UNIT,unit) \
	    $(call override_if,AGAINST,against)

dashboard: .venv/installed ## the same as a static site in results/board: BOARD=name, SERVE=1 serves it on this machine
	@$(PY) -m harness.commands.dashboard $(OVERRIDES) $(call override_if,BOARD,board) $(call override_if,UNIT,unit) $(call override_if,SERVE,serve)

agreement: .venv/installed ## whether two boards rank alike: A=folder-or-board B= RULESET_A= RULESET_B= UNIT_B= NAMES=a:b LADDER=small,large
	@$(PY) -m harness.commands.readings.agreement $(call override_if,A,a) $(call override_if,B,b) $(call override_if,NAMES,names) \
	    $(call override_if,LADDER,ladder) $(call override_if,OVER,over) \
	    $(call override_if,RULESET_A,ruleset_a) $(call override_if,RULESET_B,ruleset_b) \
	    $(call override_if,WORKLOAD_A,workload_a) $(call override_if,WORKLOAD_B,workload_b) \
	    $(call override_if,UNIT,unit) $(call override_if,UNIT_A,unit_a) $(call override_if,UNIT_B,unit_b) $(OVERRIDES)

advise: .venv/installed ## what to use, as far as recorded rows can say: WORKLOAD=a,b or SUITE=x BUDGET=0.5|1|2 RULESET= UNIT=
	@$(PY) -m harness.commands.readings.advise $(OVERRIDES) $(call override_if,BUDGET,budget) $(call override_if,UNIT,unit)

diagnose: .venv/installed ## what training algorithms found, read off the weights of their trials: WORKLOAD=a SUBMISSION=x,y ONLY=sharpness,weights
	@$(PY) -m harness.commands.readings.diagnose $(OVERRIDES) $(call override_if,ONLY,only)

verify: .venv/installed ## run recorded trials again and compare: TRIAL=id, or BOARD=folder SAMPLE=10 for a sample drawn by chance
	@$(PY) -m harness.commands.trust.verify $(call override_if,TRIAL,trial) $(call override_if,BOARD,board) \
	    $(call override_if,SAMPLE,sample) $(OVERRIDES)

replay: .venv/installed ## what pruning saves on recorded rows, and what it does to the board: FUTILITY=1 for predictions
	@$(PY) -m harness.commands.replay $(OVERRIDES) $(call override_if,FUTILITY,futility)

import-algoperf: .venv/installed ## AlgoPerf logs as tables that every board can show: LOGS=dir TARGETS=file.json, BOARD=name as a committed board
	@$(PY) -m harness.commands.imports.import_algoperf $(call override_if,LOGS,logs) $(call override_if,TARGETS,targets) \
	    $(call override_if,BOARD,board) $(call override_if,RESULTS,results)

import-nanogpt: .venv/installed ## modded-nanogpt's logs of its third track, ranked by steps to 3.28: LOGS=dir
	@$(PY) -m harness.commands.imports.import_nanogpt $(call override_if,LOGS,logs) $(call override_if,RESULTS,results)

import-csv: .venv/installed ## CSV or JSON of a plain training script: LOGS=path WORKLOAD=x METRIC=loss TARGET=3.28 HARDWARE='1x RTX 4090'
	@$(PY) -m harness.commands.imports.import_csv $(call override_if,LOGS,logs) $(call override_if,WORKLOAD,workload) \
	    $(call override_if,METRIC,metric) $(call override_if,TARGET,target) $(call override_if,HARDWARE,hardware) \
	    $(call override_if,GOAL,goal) $(call override_if,BUDGET,budget) $(call override_if,SUBMISSION,submission) \
	    $(call override_if,RESULTS,results)

import-submission: .venv/installed ## wrap an AlgoPerf submission in PyTorch, unmodified: DIR=path NAME=x
	@$(PY) -m harness.commands.authors.import_submission $(call override_if,DIR,dir) $(call override_if,NAME,name)

debug: .venv/installed ## one submission on one workload in this process, nothing recorded: SUBMISSION=x WORKLOAD=y
	@$(PY) -m harness.commands.debug $(OVERRIDES)

submission: .venv/installed ## write the directory of a new submission, ready to run: NAME=x
	@$(PY) -m harness.commands.skeleton $(call override_if,NAME,name)

validate: .venv/installed ## whether a submission keeps the contract, as its reviewer would ask: SUBMISSION=path JSON=file
	@$(PY) -m harness.commands.authors.validate $(call override_if,SUBMISSION,submission) $(call override_if,JSON,json)

profile: .venv/installed ## where the time of a step goes, state, what is never read; submission pages show it: SUBMISSION=x WORKLOAD=a,b STEPS=50
	@$(PY) -m harness.commands.authors.profile $(OVERRIDES) $(call override_if,STEPS,steps)

sweep: .venv/installed ## enter every optimizer class of a library at its defaults: LIBRARY=torch.optim|pytorch_optimizer WORKLOAD=x
	@$(PY) -m harness.commands.authors.sweep $(call override_if,LIBRARY,library) $(OVERRIDES)

data: .venv/installed ## fetch the data sets, with size and licence shown first: WORKLOAD=a,b
	@$(PY) -m harness.commands.data $(OVERRIDES)

doctor: .venv/installed ## say what this machine has, what will run, and what mends what is missing
	@$(PY) -m harness.commands.doctor $(OVERRIDES)

calibrate: .venv/installed ## measure the reference's seconds per step again: WORKLOAD=a,b FREEZE=name keeps them for official boards
	@$(PY) -m harness.commands.calibrate $(OVERRIDES) $(call override_if,FREEZE,freeze)

noise: .venv/installed ## the machine's noise floor by A/A sandwiches of the reference: WORKLOAD=a,b
	@$(PY) -m harness.commands.noise $(OVERRIDES)

overhead: .venv/installed ## compare a trial's speed with a bare PyTorch loop
	@$(PY) -m benchmarks.overhead $(ARGS)

repeatability: .venv/installed ## which unit of time repeats, by workload, and what a busy machine does to a board: WORKLOAD=a,b ARGS='mode=boards'
	@$(PY) -m benchmarks.repeatability $(call override_if,WORKLOAD,workload) $(call override_if,SUBMISSION,submission) \
	    $(call override_if,RESULTS,results) $(ARGS)

adapter-overhead: .venv/installed ## compare AdamW in AlgoPerf's API with the same update in a plain loop, 4 min: ARGS='pairs=30 workload=a,b'
	@$(PY) -m benchmarks.adapter $(ARGS)

redteam: .venv/installed ## run dishonest submissions and see that each gets its end, 10 min: ARGS=sandbox=off|honest=mini
	@$(PY) -m tests.redteam $(ARGS)

audit: .venv/installed ## look for a submission that knows its workloads, in its source and on their twins: SUBMISSION=x SEEDS=6
	@$(PY) -m harness.commands.trust.audit $(call override_if,SEEDS,seeds) $(call override_if,TWIN,twin) $(OVERRIDES)

faults: .venv/installed ## faults at every state of a trial, and what each leaves: ARGS=only=SIGTERM
	@$(PY) -m tests.faults $(ARGS)

interruptions: .venv/installed ## kill a tuned bench ten times and compare its tables with those of an untouched run: 20 min
	@$(PY) benchmarks/interruptions.py $(ARGS)

resume-check: .venv/installed ## kill one checkpointed trial 20 times and compare losses and charge with an untouched run: 10 min
	@$(PY) -m benchmarks.resume $(ARGS)

scoring-speed: .venv/installed ## time import, score, bootstrap and page on 100,000 synthetic trials
	@$(PY) benchmarks/scoring.py $(ARGS)

optimizer-speed: .venv/installed ## step time and state bytes of the optimizers here against AdamW's and those of libraries: DEVICE=cuda
	@$(PY) -m benchmarks.optimizers $(call override_if,DEVICE,device) $(ARGS)

throughput: .venv/installed ## training speed on made-up batches: WORKLOAD=a,b DEVICE= PRECISION= COMPILE=on|off|both JSON=file
	@$(PY) -m benchmarks.throughput $(call override_if,WORKLOAD,workload) $(call override_if,DEVICE,device) \
	    $(call override_if,PRECISION,precision) $(call override_if,COMPILE,compile) $(call override_if,JSON,json) $(ARGS)

gpu-proof: ## all that only a GPU can show, ten minutes, on a bare machine: DEVICE=cpu SMALL=1 runs it in little, PART=a,b OUT=
	@$(if $(wildcard $(PY)),$(PY),$(PYTHON)) -m benchmarks.gpu_proof $(call override_if,DEVICE,device) \
	    $(call override_if,SMALL,small) $(call override_if,PART,part) $(call override_if,OUT,out)

gpu-wheels: .venv/installed ## download what a bare machine lacks for make gpu-proof into .gpu_wheels, under 60 MB
	@$(PY) -m benchmarks.gpu_proof.wheels

interval-coverage: .venv/installed ## how often the boards' intervals hold the truth, and equals are called different
	@$(PY) benchmarks/coverage.py $(ARGS)

place-coverage: .venv/installed ## how often the places that newcomers are given on a board hold their true ones, 10 min
	@$(PY) -m benchmarks.placing $(ARGS)

targets: .venv/installed ## set a workload's target as AlgoPerf does and write it into its YAML: WORKLOAD=a,b POINTS=20 SEEDS=10 JOBS=1
	@$(PY) -m benchmarks.targets $(call override_if,WORKLOAD,workload) $(call override_if,POINTS,points) $(call override_if,SEEDS,seeds) \
	    $(call override_if,JOBS,jobs) $(call override_if,RESULTS,results)

base-weights: .venv/installed ## train anew what some workloads begin with, two minutes: BASE=a,b; another hash on every machine
	@$(PY) -m benchmarks.base_weights $(call override_if,BASE,base)

golden: .venv/installed ## write down what workloads compute before anything is learned, by version: WORKLOAD=a,b
	@$(PY) -m benchmarks.golden $(call override_if,WORKLOAD,workload)

power: .venv/installed ## what workloads can tell apart, and the seeds that it takes: WORKLOAD=a,b
	@$(PY) -m benchmarks.power $(call override_if,WORKLOAD,workload)

power-runs: .venv/installed ## train what make power reads, on seeds that set no target: WORKLOAD=a,b SEEDS=20
	@$(PY) -m benchmarks.power_runs $(call override_if,WORKLOAD,workload) $(call override_if,SEEDS,seeds) \
	    $(call override_if,RESULTS,results)

claims: .venv/installed ## test the papers' claims and write docs/claims.md: CLAIM=name|all, else what is not measured yet, 15 min for all
	@$(PY) -m benchmarks.claims $(call override_if,CLAIM,claim)

papers: .venv/installed ## write docs/papers.md: what each paper is here, the command that shows it, and whether it works
	@$(PY) -m benchmarks.papers $(ARGS)

sanity: .venv/installed ## the workloads against plain models at equal seconds of one core, 23 min: WORKLOAD=a,b
	@$(PY) -m benchmarks.sanity $(call override_if,WORKLOAD,workload)

board-page: .venv/installed ## take the committed board over into docs/board.md, the README and a CSV
	@$(PY) -m benchmarks.board_page $(ARGS)

machines: .venv/installed ## take rows of other processors over into docs/machines.md: what a step of each method costs there
	@$(PY) -m benchmarks.machines $(ARGS)

ablation: .venv/installed ## what each part of a submission brings, level by level of conf/ladder: LADDER=champion WORKLOAD=a,b SEED= ARGS=report=only
	@$(PY) -m benchmarks.ablation $(call override_if,LADDER,ladder) $(call override_if,WORKLOAD,workload) \
	    $(call override_if,SEED,seed) $(call override_if,RESULTS,results) $(ARGS)

workload-times: .venv/installed ## take recorded trials over into the tables of docs/workloads.md: SUBMISSION=nadamw
	@$(PY) -m benchmarks.workload_times $(call override_if,SUBMISSION,submission) $(call override_if,RESULTS,results)

loader: .venv/installed ## how long ResNet-50 waits for JPEGs that worker processes decode, 3 min: ARGS='images=2000 batch=32'
	@$(PY) -m benchmarks.loader $(ARGS)

clicks: .venv/installed ## ten million rows in criteo's form: prepared, indexed, 20 evaluations, the referee's memory, 5 min: ARGS=rows=10000000
	@$(PY) -m benchmarks.clicks $(ARGS)

sync: .venv/installed ## upload W&B runs that were recorded offline: CLEAN=1 removes what has been uploaded from the disk
	@$(PY) -m harness.commands.sync $(call override_if,RESULTS,results) $(call override_if,CLEAN,clean)

test: .venv/installed ## the default tests: offline, minutes on two cores
	@$(PY) -m pytest --numprocesses 2 --dist loadfile $(ARGS)

test-all: .venv/installed ## the slow tests too
	@$(PY) -m pytest -m 'not gpu' $(ARGS)

test-gpu: .venv/installed ## the tests that need a CUDA device
	@$(PY) -m pytest -m gpu $(ARGS)

check: .venv/installed ## ruff and mypy
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy

clean: ## remove .venv and caches; results and data stay
	@rm -rf .venv .mypy_cache .pytest_cache .ruff_cache *.egg-info
