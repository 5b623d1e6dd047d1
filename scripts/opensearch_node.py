"""Runs a real OpenSearch node with ML Commons and neural-search, without Docker, to try a pipeline on.

    python scripts/opensearch_node.py 3.6.0 --port 9200
    python scripts/opensearch_node.py prepare          # only fetch and assemble all versions

The node's parts come from Maven artifacts, once a version, and are kept outside the tree (QWEN_RERANK_TEST_CACHE says
where). It has no security plugin, listens on this machine alone, and forgets everything when it ends. Needs Maven, and a
Java that the version runs on; as root on a Debian-like system missing ones are installed. It is the node of the tests.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.integrations.opensearch.nodes.assembly import home_of  # noqa: E402 - the repository's root comes first
from tests.integrations.opensearch.nodes.node import NodeError, running_node  # noqa: E402
from tests.integrations.opensearch.nodes.releases import CORE_RELEASES, RELEASES  # noqa: E402
from tests.integrations.opensearch.nodes.toolchain import ToolchainError, find_java  # noqa: E402

PREPARE = "prepare"


def prepare() -> None:
    """Have all that the tested versions need."""
    for release in (*RELEASES.values(), *CORE_RELEASES.values()):
        java = find_java(release)
        print(f"OpenSearch {release.version}: Java {java.major} in {java.path}, home {home_of(release)}")


def serve(version: str, port: int, heap: str) -> None:
    """Run a node until Ctrl-C."""
    with running_node(version, http_port=port, heap=heap, optimized=True) as node:
        print(f"OpenSearch {version} listens on {node.url}; Ctrl-C ends it and removes its data", flush=True)
        try:
            status = node.process.wait()
        except KeyboardInterrupt:
            return
    raise NodeError(f"the node ended by itself with {status!r}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what was asked for; 1 if it cannot be done."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("version", choices=[*RELEASES, PREPARE], help="OpenSearch's version, or prepare")
    parser.add_argument(
        "--port", type=int, default=9200, help="of HTTP; 0 for a free one (default: %(default)s)"
    )
    parser.add_argument("--heap", default="1g", help="memory of Java's heap (default: %(default)s)")
    options = parser.parse_args(arguments)
    try:
        if options.version == PREPARE:
            prepare()
        else:
            serve(options.version, options.port, options.heap)
    except (ToolchainError, NodeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
