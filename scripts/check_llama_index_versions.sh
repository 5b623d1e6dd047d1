#!/usr/bin/env bash
# Installs the LlamaIndex integration without torch, once with the lowest versions that its pyproject.toml allows and
# once with the newest, and runs all its tests but those of a model and of the example. One of the suites of test.sh;
# needs the package index. `bash scripts/check_llama_index_versions.sh lowest` runs one of the two.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/setup.sh
source scripts/check_versions.sh

integration=llama_index
packages=()
test_tools=(hypothesis)
needs_model=(test_demo_model.py test_example.py)
shown='^llama-index-core==\|^pydantic=='
check_versions "${1:-both}"
