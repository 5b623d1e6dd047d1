# shellcheck shell=bash
# Sourced by start.sh and test.sh: brings a fresh machine to a filled `.venv` at the repository's root.
#
#   setup_environment NAME ARGUMENT...   installs with `uv pip install ARGUMENT...` under constraints.txt, unless the
#                                        stamp NAME says that nothing has changed since the last time
#
# Needs Python 3.11 or newer and a package index; as root on a Debian-like system it installs a missing Python itself.
# The variables VENV and BASE_PYTHON name another environment and the interpreter that it is made with.

shopt -s inherit_errexit

# Container images often set this; then every process would compile PyTorch and transformers again, 5 s each.
unset PYTHONDONTWRITEBYTECODE

VENV=${VENV:-.venv}
PYTHON=$VENV/bin/python

say() { printf '==> %s\n' "$*" >&2; }

# Prints the seconds since an earlier $EPOCHREALTIME, with one decimal.
seconds_since() {
  local tenths=$(((${EPOCHREALTIME/[.,]/} - ${1/[.,]/}) / 100000))
  printf '%d.%d s' $((tenths / 10)) $((tenths % 10))
}

fail() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

is_usable_python() {
  "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

find_python() {
  local name
  for name in ${BASE_PYTHON:+"$BASE_PYTHON"} python3 python3.13 python3.12 python3.11; do
    if command -v "$name" >/dev/null && is_usable_python "$name"; then
      command -v "$name"
      return 0
    fi
  done
  return 1
}

# Installs Debian packages when that is possible, else returns non-zero.
apt_install() {
  [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 1
  say "installing $* with apt-get"
  apt-get update -qq >&2 || true
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >&2
}

# A uv on the PATH that knows dependency groups, else nothing.
system_uv() {
  local uv
  uv=$(type -P uv) && "$uv" pip install --help 2>/dev/null | grep -q -e '--group' && printf '%s\n' "$uv"
}

make_environment() {
  local base uv
  base=$(find_python) || {
    apt_install python3 python3-venv || true
    base=$(find_python) ||
      fail "no Python 3.11 or newer on the PATH: install one (Debian 12: apt-get install python3 python3-venv)"
  }
  say "making $VENV with $("$base" --version 2>&1) ($base)"
  if uv=$(system_uv); then
    "$uv" venv --quiet --allow-existing --python "$base" "$VENV"
    return
  fi
  if ! "$base" -c 'import ensurepip, venv' >/dev/null 2>&1; then
    apt_install python3-venv || fail "$base has no complete venv module: apt-get install python3-venv"
  fi
  "$base" -m venv "$VENV"
}

# Prints the uv to install with: the system's, or one that is installed into the environment itself.
find_uv() {
  if [ ! -x "$VENV/bin/uv" ] && ! system_uv; then
    say "installing uv into $VENV"
    "$PYTHON" -m pip --version >/dev/null 2>&1 || "$PYTHON" -m ensurepip >/dev/null
    "$PYTHON" -m pip install --quiet --disable-pip-version-check --constraint constraints.txt uv >&2
  fi
  if [ -x "$VENV/bin/uv" ]; then
    printf '%s\n' "$VENV/bin/uv"
  fi
}

# Changes whenever the environment has to be filled anew.
fingerprint() {
  {
    cat pyproject.toml integrations/*/pyproject.toml constraints.txt scripts/setup.sh
    grep '^__version__' qwen_rerank_plugins/__init__.py
    "$PYTHON" --version
    printf '%s\n' "$@"
  } | sha256sum | cut -d' ' -f1
}

setup_environment() {
  local stamp=$VENV/.setup-$1 begin=$EPOCHREALTIME wanted uv
  shift
  if [ ! -x "$PYTHON" ] || ! is_usable_python "$PYTHON"; then
    make_environment
    say "$VENV was made in $(seconds_since "$begin")"
  fi
  if command -v flock >/dev/null; then # two runs at once take turns
    exec 9>"$VENV/.setup-lock"
    flock 9
  fi
  wanted=$(fingerprint "$@")
  if [ ! -f "$stamp" ] || [ "$(cat "$stamp")" != "$wanted" ]; then
    uv=$(find_uv)
    begin=$EPOCHREALTIME
    say "installing $*"
    case "$*" in
      *local* | *all*)
        compgen -G "$VENV/lib/python*/site-packages/torch" >/dev/null ||
          say "this downloads PyTorch, about 3 GB with its CUDA libraries: minutes, this one time"
        ;;
    esac
    "$uv" pip install --python "$PYTHON" --constraint constraints.txt --build-constraint constraints.txt "$@"
    printf '%s\n' "$wanted" >"$stamp"
    say "the packages were installed in $(seconds_since "$begin")"
  else
    say "the packages in $VENV are complete ($(seconds_since "$begin"))"
  fi
  exec 9>&-
}
