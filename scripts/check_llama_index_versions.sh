#!/usr/bin/env bash
# Installs the LlamaIndex integration without torch, once with the lowest versions that its pyproject.toml allows and
# once with the newest, and runs all its tests but those of a model and of the example. One of the suites of test.sh;
# needs the package index. `bash scripts/check_llama_index_versions.sh lowest` runs one of the two.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/setup.sh

uv=$(find_uv)
tests=tests/integrations/llama_index

# Runs the tests that need no torch with what `uv pip install $2...` resolves to.
check() {
  local name=$1 environment=.test-results/llama-index-$1
  shift
  "$uv" venv --quiet --clear --python "$PYTHON" "$environment"
  "$uv" pip install --quiet --python "$environment/bin/python" "$@" . ./integrations/llama_index
  "$uv" pip install --quiet --python "$environment/bin/python" --constraint constraints.txt \
    hatchling hypothesis pytest pytest-timeout
  "$uv" pip check --quiet --python "$environment/bin/python"
  say "$name: $("$environment/bin/python" -c '
import importlib.metadata as m; print("llama-index-core", m.version("llama-index-core"), "pydantic", m.version("pydantic"))')"
  # Old versions may warn about things that the pinned ones do not.
  "$environment/bin/python" -m pytest --quiet -p no:cacheprovider --override-ini filterwarnings= \
    --ignore "$tests/test_demo_model.py" --ignore "$tests/test_example.py" \
    "$tests"
}

case ${1:-both} in
  lowest) check lowest --resolution lowest-direct ;;
  newest) check newest ;;
  both)
    check lowest --resolution lowest-direct
    check newest
    ;;
  *) fail "unknown argument $1; there are lowest, newest, both" ;;
esac
