#!/usr/bin/env bash
# Installs the base alone (no extras) with the lowest versions that pyproject.toml allows, and runs the tests of the base.
# One of the suites of test.sh; needs the package index.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/setup.sh

lowest=.test-results/lowest
uv=$(find_uv)
"$uv" venv --quiet --clear --python "$PYTHON" "$lowest"
"$uv" pip install --quiet --python "$lowest/bin/python" --resolution lowest-direct .
"$uv" pip install --quiet --python "$lowest/bin/python" --constraint constraints.txt pytest pytest-timeout hypothesis
"$uv" pip check --quiet --python "$lowest/bin/python"

# Old versions may warn about things that the pinned ones do not.
"$lowest/bin/python" -m pytest --quiet -p no:cacheprovider --override-ini filterwarnings= tests/test_*.py tests/adapters
