"""Builds the native plugin with Maven, once per version of OpenSearch and process."""

from __future__ import annotations

import hashlib
import os
import subprocess
from functools import cache
from pathlib import Path

from tests.integrations.opensearch.nodes.releases import CORE_RELEASES, RELEASES
from tests.integrations.opensearch.nodes.toolchain import ToolchainError, find_java, find_maven

ROOT = Path(__file__).resolve().parents[4]
PROJECT = ROOT / "integrations" / "opensearch-plugin"
VERSIONS = (*RELEASES, *CORE_RELEASES)


@cache
def build_plugin(version: str) -> Path:
    """Build the plugin with its unit tests, unless this was done for the same sources, and return its zip.

    Raises:
        ToolchainError: Java or Maven is missing, the build failed, or a unit test failed.
    """
    java = Path(find_java({**RELEASES, **CORE_RELEASES}[version]).path).resolve()
    folder = PROJECT / "target" / version
    built = folder / "sources.sha256"
    digest = _sources_digest(java)
    if built.is_file() and built.read_text(encoding="utf-8") == digest:
        return next(folder.glob("*.zip"))
    command = [find_maven(), "--batch-mode", "--quiet", f"-Dopensearch.version={version}", "package"]
    environment = os.environ | {"JAVA_HOME": str(java.parent.parent)}
    ran = subprocess.run(command, cwd=PROJECT, env=environment, check=False, capture_output=True, text=True)
    if ran.returncode:
        raise ToolchainError(
            f"Maven ended with status {ran.returncode!r} instead of 0:\n{ran.stdout[-6000:]}"
        )
    (archive,) = folder.glob("*.zip")
    built.write_text(digest, encoding="utf-8")
    return archive


def _sources_digest(java: Path) -> str:
    paths = [PROJECT / "pom.xml", *sorted(path for path in (PROJECT / "src").rglob("*") if path.is_file())]
    parts = [
        str(java).encode(),
        *(part for path in paths for part in (str(path).encode(), path.read_bytes())),
    ]
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()
