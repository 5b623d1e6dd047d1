#!/usr/bin/env bash
# Sets up everything on a fresh machine and ranks the shipped example: bash start.sh [--model NAME] [--help] ...
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
source scripts/setup.sh

setup_environment start --editable '.[local]'
exec "$PYTHON" scripts/first_run.py "$@"
