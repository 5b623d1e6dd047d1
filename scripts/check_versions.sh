# shellcheck shell=bash disable=SC2154 # the caller sets what is described here
# Sourced by the checks of an integration's versions, after scripts/setup.sh. They set:
#
#   integration    its folder under integrations/ and tests/integrations/
#   packages       what is installed beside it, and beside the base package without extras
#   test_tools     what its tests need beside pytest
#   needs_model    its test files that need torch, which is not there
#   shown          names in whose versions a reader is interested, as grep takes them
#
# and call check_versions with lowest, newest or both.

# Runs the tests that need no torch with what `uv pip install $2...` resolves to.
check_resolution() {
  local name=$1 environment=.test-results/$integration-$1 tests=tests/integrations/$integration uv file ignored=()
  shift
  uv=$(find_uv)
  for file in "${needs_model[@]}"; do
    ignored+=(--ignore "$tests/$file")
  done
  "$uv" venv --quiet --clear --python "$PYTHON" "$environment"
  "$uv" pip install --quiet --python "$environment/bin/python" "$@" . "./integrations/$integration" "${packages[@]}"
  "$uv" pip install --quiet --python "$environment/bin/python" --constraint constraints.txt \
    hatchling pytest pytest-timeout "${test_tools[@]}"
  "$uv" pip check --quiet --python "$environment/bin/python"
  say "$name: $("$uv" pip freeze --quiet --python "$environment/bin/python" | grep -i "$shown" | tr '\n' ' ')"
  # Old versions may warn about things that the pinned ones do not.
  "$environment/bin/python" -m pytest --quiet -p no:cacheprovider --override-ini filterwarnings= \
    "${ignored[@]}" "$tests"
}

check_versions() {
  case $1 in
    lowest) check_resolution lowest --resolution lowest-direct ;;
    newest) check_resolution newest ;;
    both)
      check_resolution lowest --resolution lowest-direct
      check_resolution newest
      ;;
    *) fail "unknown argument $1; there are lowest, newest, both" ;;
  esac
}
