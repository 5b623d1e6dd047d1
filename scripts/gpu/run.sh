#!/usr/bin/env bash
# Checks and measures the CUDA path, and leaves one folder of results; on one H100 it takes some minutes:
#
#   bash scripts/gpu/run.sh [--device cuda|cpu] [--out FOLDER] [--sections NAME,...]
#
# With --device cpu it does the same with tiny models, as far as a CPU can. PYTHON names the interpreter (python3 by
# default). Packages in .test-results/gpu-site, which prepare.sh fills, are used for what that one lacks.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

python=${PYTHON:-python3}
export PYTHONPATH=$PWD:${PYTHONPATH:-} PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=true
export HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1
"$python" -c 'import pydantic' 2>/dev/null || PYTHONPATH=$PYTHONPATH:$PWD/.test-results/gpu-site
exec "$python" -m scripts.gpu.run "$@"
