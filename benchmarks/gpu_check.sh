#!/usr/bin/env bash
# What a CUDA GPU gives, in at most 8 minutes: tests on it, the speed of both stages, of extraction and encoding, and a run that is
# killed and goes on bit for bit. Writes docs/benchmarks_gpu.md. Nothing is decoded: needs torch, numpy, pydantic, safetensors,
# pyarrow and timm (and, for the tests, pytest and what they import).
#
#     PYTHON=.venv/bin/python benchmarks/gpu_check.sh [--device cpu] [--out FILE.md]
#
# Goes on after a failure, and says so in its exit status.
set -uo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH="src${PYTHONPATH:+:$PYTHONPATH}"
# Each part is a process of its own, and so is each loader: modules are compiled once, wherever they lie.
unset PYTHONDONTWRITEBYTECODE
PYTHONPYCACHEPREFIX="$(mktemp -d)"
export PYTHONPYCACHEPREFIX
trap 'rm -rf "$PYTHONPYCACHEPREFIX"' EXIT
"${PYTHON:-python3}" benchmarks/gpu_check.py "$@"
