#!/usr/bin/env bash
# Runs suites with other versions of Python, each in an environment under .test-results/, one after the other:
#
#   bash scripts/python_versions.sh [VERSION...] [SUITE...]      default: 3.12 3.13, and the suites below
#
# An interpreter is looked up on the PATH, and then among pyenv's. Needs the package index.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/setup.sh

versions=() suites=()
for argument in "$@"; do
  case $argument in
    [0-9]*) versions+=("$argument") ;;
    *) suites+=("$argument") ;;
  esac
done
[ "${#versions[@]}" -gt 0 ] || versions=(3.12 3.13)
[ "${#suites[@]}" -gt 0 ] || suites=(unit core service langchain llama_index haystack lowest)

find_version() {
  local candidate
  for candidate in "python$1" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$1".*/bin/python; do
    if "$candidate" -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] != '$1')" 2>/dev/null; then
      printf '%s\n' "$candidate"
      return
    fi
  done
  fail "no Python $1 on the PATH or under pyenv: install one, for example with pyenv install $1"
}

failed=()
for version in "${versions[@]}"; do
  base=$(find_version "$version")
  VENV=.test-results/python-$version BASE_PYTHON=$base bash test.sh --jobs 1 "${suites[@]}" || failed+=("$version")
done
[ "${#failed[@]}" -eq 0 ] || fail "suites failed with Python ${failed[*]}"
