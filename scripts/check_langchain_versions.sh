#!/usr/bin/env bash
# Installs the LangChain integration without torch, once with the lowest versions that its pyproject.toml allows and once with
# the newest, and runs all its tests but those of a model. One of the suites of test.sh; needs the package index.
# `bash scripts/check_langchain_versions.sh lowest` runs one of the two.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/setup.sh
source scripts/check_versions.sh

integration=langchain
# Older ones of langchain-classic have a BaseCrossEncoder of their own, in place of the core's.
packages=('langchain-classic>=1.0.3')
test_tools=()
needs_model=(test_local_engine.py test_rag_example.py test_milvus_example.py)
shown='^langchain.*=='
check_versions "${1:-both}"
