#!/usr/bin/env bash
# Builds the documentation site: bash scripts/docs.sh [build|serve|--words|--help]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/setup.sh

usage() {
  cat <<'END'
bash scripts/docs.sh            build the site into site/; a warning is an error. Open site/index.html
bash scripts/docs.sh serve      serve it on http://127.0.0.1:8000, and build again whenever a page changes
bash scripts/docs.sh --words    build it, and print the words of each page
END
}

case ${1:-build} in
  build | serve | --words) ;;
  -h | --help)
    usage
    exit 0
    ;;
  *)
    usage >&2
    exit 2
    ;;
esac

# The reference pages read the settings, the parsers and the routes; everything else is read as source text.
setup_environment docs --editable '.[server]' --editable integrations/opensearch --group docs
export NO_MKDOCS_2_WARNING=1 # the theme's notice about its successor

if [ "${1:-build}" = serve ]; then
  exec "$PYTHON" -m mkdocs serve --strict --dev-addr 127.0.0.1:8000
fi
"$PYTHON" -m mkdocs build --strict --clean
exec "$PYTHON" -m scripts.docs_site.check site "${@:1}"
