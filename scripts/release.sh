#!/usr/bin/env bash
# Builds every distribution into dist/, checks the files, and tries each wheel in a new environment of its own:
#
#   bash scripts/release.sh [--build-only]
#
# Nothing is uploaded. Needs the package index; the environment with a local model is several GB.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
VENV=.test-results/release
source scripts/setup.sh

case "$*" in
  '' | --build-only) ;;
  *)
    sed -n '2,6s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
    exit 2
    ;;
esac

setup_environment release --group release
uv=$(find_uv)
rm -rf dist
for project in . integrations/*/pyproject.toml; do
  # The wheel is built from the source distribution, so that both are complete.
  "$uv" build --quiet --build-constraint constraints.txt --out-dir dist "${project%/pyproject.toml}"
done
"$VENV/bin/twine" check --strict dist/*.whl dist/*.tar.gz
"$VENV/bin/hadolint" deploy/Dockerfile
say "built $(find dist -name '*.whl' | wc -l) wheels, and as many source distributions; the Dockerfile has no findings"
[ "${1:-}" != --build-only ] || exit 0

# Installs a wheel with its extras into a new environment, and runs its part of scripts/try_wheels.py in an empty folder.
try() {
  local name=$1 requirement=$2 folder begin=$EPOCHREALTIME
  folder=$(realpath -m ".test-results/try-$name")
  rm -rf "$folder"
  "$uv" venv --quiet --python "$PYTHON" "$folder"
  "$uv" pip install --quiet --python "$folder/bin/python" --constraint constraints.txt --find-links dist "$requirement"
  "$uv" pip check --quiet --python "$folder/bin/python"
  mkdir "$folder/empty"
  cp scripts/try_wheels.py "$folder"
  (cd "$folder/empty" && PATH="$folder/bin:$PATH" "$folder/bin/python" -I ../try_wheels.py "$name" "${@:3}")
  say "$requirement was installed and tried in $(seconds_since "$begin")"
}

version=$("$PYTHON" -c 'import re; print(re.search(r"__version__ = \"(.+)\"", open("qwen_rerank_plugins/__init__.py").read())[1])')
try base "qwen-rerank-plugins==$version"
try local "qwen-rerank-plugins[local,server,batch,eval]==$version"

# The wrappers, without a model of their own, ask the service of the environment before.
log=.test-results/try-service.log
.test-results/try-local/bin/qwen-rerank serve --model demo --port 0 >"$log" 2>&1 &
service=$!
trap 'kill "$service" 2>/dev/null || true' EXIT
until grep -q 'ready after' "$log"; do
  kill -0 "$service" 2>/dev/null || fail "the service did not start: $(cat "$log")"
  sleep 0.2
done
address=$(grep -oE 'http://127\.0\.0\.1:[0-9]+' "$log" | head -n 1)
try langchain "langchain-qwen-rerank==$version" "$address"
try llama_index "llama-index-postprocessor-qwen-rerank==$version" "$address"
try haystack "qwen-rerank-haystack==$version" "$address"
try opensearch "opensearch-qwen-rerank==$version" "$address"
say "every wheel of $version was tried"
