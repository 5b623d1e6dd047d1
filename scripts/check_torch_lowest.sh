#!/usr/bin/env bash
# Runs the tests of the core with the lowest torch that pyproject.toml allows, in an environment under .test-results/:
#
#   bash scripts/check_torch_lowest.sh [PYTEST ARGUMENT...]
#
# Not one of the suites of test.sh: it downloads several GB. Needs the package index.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/setup.sh

torch=$(sed -n 's/^ *"torch>=\([0-9.]*\)".*/\1/p' pyproject.toml)
[ -n "$torch" ] || fail "pyproject.toml names no lowest torch"
environment=.test-results/torch-lowest
constraints=.test-results/torch-lowest.txt
uv=$(find_uv)
# torch pins its own libraries and setuptools, so the constraints of the newer torch do not hold for them. The interpreter of its Triton takes
# an array of one number for a number, which NumPy 2.4 refuses.
mkdir -p .test-results
grep -v -E '^(torch|triton|numpy|setuptools|nvidia-[a-z0-9-]*|cuda-[a-z0-9-]*)==' constraints.txt >"$constraints"
"$uv" venv --quiet --clear --python "$PYTHON" "$environment"
"$uv" pip install --quiet --python "$environment/bin/python" --constraint "$constraints" \
  ".[gguf,local,modelscope,server]" "torch==$torch.*" "numpy<2.4" pytest pytest-timeout hypothesis compressed-tensors dashscope peft psutil sentence-transformers tiktoken
say "$("$environment/bin/python" -c 'import torch; print("torch", torch.__version__)')"
# Old versions may warn about things that the pinned one does not.
"$environment/bin/python" -m pytest --quiet -p no:cacheprovider --override-ini filterwarnings= \
  tests/core "$@"
