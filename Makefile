# Everything is made from Python 3.11 or later and make: each target first sets up what it needs, once.
# `make` alone lists the targets. ARGS="..." is handed on to demo, serve, test and bench.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo serve test torch check lint types stubs contract rules proto bench gpu-check lock clean

# The first Python that is new enough and can make environments; PYTHON=... names another.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	"$$p" -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo "$$p" && break; done)
# The Python of a machine with a GPU, which has CuPy and PyTorch.
GPU_PYTHON ?= python3
ARGS ?=

BIN := .venv/bin
PIP := -m pip --disable-pip-version-check --quiet
PROTOS := $(wildcard proto/bptt/v1/*.proto)
SERVICES := $(shell grep -l '^service ' $(PROTOS) /dev/null)

# Reductions in a fixed order: one thread for every BLAS that NumPy may have been built with.
export OPENBLAS_NUM_THREADS := 1
export OMP_NUM_THREADS := 1
export MKL_NUM_THREADS := 1

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: .venv/compiled  ## watch a server learn and forecast a simulated plant (under two minutes)
	$(BIN)/python -m bptt_client.cli demo $(ARGS)

serve: .venv/compiled  ## start the server on this machine, data in ./bptt-data
	$(BIN)/bptt-server $(ARGS)

test: .venv/compiled  ## run every test, on all cores
	$(BIN)/python -m pytest -n auto --dist worksteal $(ARGS)

torch: .venv/installed  ## install PyTorch beside the rest: `make test` then compares with it live
	$(BIN)/python $(PIP) install -r requirements/torch.txt -c requirements/dev.txt
	$(BIN)/python $(PIP) check

check: lint types stubs contract rules  ## lint, types, stubs, contract, Dockerfile, import rules (-k: all of them)

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/hadolint Dockerfile

types: .venv/installed
	$(BIN)/mypy

stubs: .venv-proto/installed
	rm -rf .venv-proto/fresh && mkdir .venv-proto/fresh
	$(call generate,.venv-proto/fresh)
	@diff -r -x '*.proto' -x py.typed -x __pycache__ .venv-proto/fresh/bptt/v1 proto/bptt/v1 \
		|| { echo "The committed stubs do not match the .proto files: run 'make proto'."; exit 1; }
	@echo "Stubs are current. They and the client import on the oldest supported protobuf and grpcio:"
	PYTHONPATH=proto:clients/python/src .venv-proto/bin/python -W error -c 'import bptt.v1.session_pb2_grpc, \
		bptt.v1.forecast_pb2_grpc, bptt_client, google.protobuf, grpc; print(google.protobuf.__version__, grpc.__version__)'

contract: .venv/installed
	cd proto && ../$(BIN)/buf lint

rules: .venv/installed
	$(BIN)/python -m pytest -q tests/tidy

proto: .venv-proto/installed  ## regenerate the stubs in proto/ from the .proto files
	$(call generate,proto)

bench: .venv/compiled  ## measure speed: updates of learners, sessions, the service (ARGS=--quick: a short one)
	$(BIN)/python benchmarks/run.py $(ARGS)

gpu-check:  ## on a machine with a GPU, CuPy and PyTorch: is the GPU engine right, and how fast (nothing is installed)
	$(GPU_PYTHON) benchmarks/gpu_check.py --out gpu-check.json $(ARGS)

lock:  ## resolve requirements/dev.in anew into requirements/dev.txt
	$(call environment,.venv-lock,requirements/dev.in)
	{ echo '# Everything in .venv, exactly. Written by `make lock` from dev.in; do not edit.'; \
		.venv-lock/bin/python $(PIP) freeze --all --exclude pip; } > requirements/dev.txt
	rm -rf .venv-lock

clean:  ## remove the environments and what the tools left behind
	rm -rf .venv .venv-proto .venv-lock .mypy_cache .pytest_cache .ruff_cache build proto/build clients/python/build
	find . -name __pycache__ -type d -prune -exec rm -rf {} + ; rm -rf *.egg-info */*.egg-info clients/python/src/*.egg-info

# ---- set-up ----

# environment(folder, requirements): a fresh virtual environment with exactly these packages.
define environment
	@test -n "$(PYTHON)" || { echo "Python 3.11 or later with venv is needed (Debian: python3 and python3-venv)." \
		"If it is not on the PATH, name it: make PYTHON=/path/to/python3"; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "$(PYTHON) is not Python 3.11 or later with venv."; exit 1; }
	@echo "setting up $(1) (once, about a minute)"
	@"$(PYTHON)" -m venv --clear $(1)
	@$(1)/bin/python $(PIP) install -r $(2)
endef

# generate(folder): stubs of all .proto files; gRPC stubs of those that declare a service.
define generate
	.venv-proto/bin/python -m grpc_tools.protoc -I proto --python_out=$(1) --pyi_out=$(1) $(PROTOS)
	.venv-proto/bin/python -m grpc_tools.protoc -I proto --grpc_python_out=$(1) $(SERVICES)
endef

.venv/locked: requirements/dev.txt
	$(call environment,.venv,requirements/dev.txt)
	@touch $@

.venv/installed: .venv/locked pyproject.toml proto/pyproject.toml clients/python/pyproject.toml
	@$(BIN)/python $(PIP) install --no-deps --no-build-isolation -e proto -e clients/python -e .
	@$(BIN)/python $(PIP) check
	@touch $@

# The engine, so that nobody waits for it later. It is kept beside its source and made anew when that changes.
.venv/compiled: .venv/installed $(shell find bptt_core -name '*.py' 2>/dev/null)
	@echo "compiling the engine (half a minute; again when its source changes)"
	@$(BIN)/python -c 'import bptt_core; bptt_core.select_backend("auto").warm_up()'
	@touch $@

.venv-proto/installed: requirements/proto.txt
	$(call environment,.venv-proto,requirements/proto.txt)
	@touch $@
