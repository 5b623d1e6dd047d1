#!/usr/bin/env bash
# Gathers what a GPU machine without a package index lacks, in .test-results/gpu-site, which git ignores:
#
#   bash scripts/gpu/prepare.sh [PYTHON VERSION]     # of the GPU machine; 3.12 by default
#
# The GPU machine needs torch >= 2.11 with Triton, transformers, tokenizers, safetensors, pytest, and for the comparison
# sentence-transformers. Copy the repository there with this folder, and run scripts/gpu/run.sh.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
source scripts/setup.sh

packages=(annotated-types charset-normalizer dashscope pydantic pydantic-core tenacity typing-inspection)
uv=$(find_uv)
rm -rf .test-results/gpu-site
"$uv" pip install --quiet --target .test-results/gpu-site --python-version "${1:-3.12}" \
  --python-platform x86_64-manylinux_2_28 --only-binary :all: --no-deps \
  --constraint constraints.txt "${packages[@]}"
say ".test-results/gpu-site: $(du -sh .test-results/gpu-site | cut -f1)"
