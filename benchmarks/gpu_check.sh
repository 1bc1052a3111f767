#!/usr/bin/env bash
# What a CUDA GPU gives: tests on it, then the speed of both stages. Needs torch and the library alone.
#
#     PYTHON=.venv/bin/python benchmarks/gpu_check.sh [FOLDER FOR THE PAGES]
#
# Goes on after a failure, and says so in its exit status.
set -uo pipefail
cd "$(dirname "$0")/.."
python="${PYTHON:-python3}"
out="${1:-docs}"
export PYTHONPATH="src${PYTHONPATH:+:$PYTHONPATH}"
# Each part of a benchmark is a process of its own, and so is each decoder: modules are compiled once, wherever they lie.
unset PYTHONDONTWRITEBYTECODE
PYTHONPYCACHEPREFIX="$(mktemp -d)"
export PYTHONPYCACHEPREFIX
failed=0
UMT_TEST_CUDA=1 "$python" -m pytest --override-ini addopts= -q tests/test_cuda.py || failed=1
for stage in stage1 stage2; do
  "$python" "benchmarks/$stage.py" --device cuda --out "$out/benchmarks_${stage}_gpu.md" || failed=1
done
rm -rf "$PYTHONPYCACHEPREFIX"
exit "$failed"
