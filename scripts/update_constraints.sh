#!/usr/bin/env bash
# Writes constraints.txt anew: the newest versions that pyproject.toml allows, for every Python from 3.11 on.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

header=$(sed -n '/^#/p' constraints.txt)
pins=$(uv pip compile --universal --python-version 3.11 --all-extras \
  --group test --group lint --group docs --group bench --group setup --group release \
  --no-header --no-annotate --no-emit-index-url --no-emit-find-links --quiet pyproject.toml)
printf '%s\n%s\n' "$header" "$pins" >constraints.txt
