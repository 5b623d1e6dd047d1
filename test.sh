#!/usr/bin/env bash
# Sets up everything on a fresh machine and runs the test suites: bash test.sh [SUITE...] [--long] [--list]
# The suites are listed at the top of scripts/run_suites.py.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
source scripts/setup.sh

integrations=()
for folder in integrations/*/pyproject.toml; do
  integrations+=(--editable "${folder%/pyproject.toml}")
done
setup_environment test --editable '.[all]' "${integrations[@]}" --group test --group lint --group docs
command -v chromium >/dev/null || apt_install chromium ||
  say "no Chromium on the PATH: the workbench's tests will fail (Debian: apt-get install chromium)"
exec "$PYTHON" scripts/run_suites.py "$@"
