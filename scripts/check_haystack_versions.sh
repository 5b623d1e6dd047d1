#!/usr/bin/env bash
# Installs the Haystack integration without torch, once with the lowest versions that its pyproject.toml allows and once with
# the newest, and runs all its tests but those of a model. One of the suites of test.sh; needs the package index.
# `bash scripts/check_haystack_versions.sh lowest` runs one of the two.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/setup.sh
source scripts/check_versions.sh

integration=haystack
packages=()
test_tools=()
needs_model=(test_demo_model.py)
shown='^haystack-ai==\|^pydantic=='
check_versions "${1:-both}"
