#!/usr/bin/env bash
# Sets up everything on a fresh machine and starts service and workbench on port 8501: bash start.sh [--model NAME] [--help] ...
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
source scripts/setup.sh

extras=local,server
case "$* ${QWEN_RERANK_MODEL:-}" in *.gguf*) extras+=,gguf ;; esac
case "$* ${QWEN_RERANK_HUB:-}" in *modelscope*) extras+=,modelscope ;; esac
setup_environment start --editable ".[$extras]"
export MALLOC_ARENA_MAX="${MALLOC_ARENA_MAX:-2}" # glibc keeps the freed memory of many threads otherwise
exec "$PYTHON" scripts/first_run.py "$@"
