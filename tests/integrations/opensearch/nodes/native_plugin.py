"""Builds the native plugin with Maven, once per version of OpenSearch and process."""

from __future__ import annotations

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
    """Build the plugin with its unit tests, and return its zip.

    Raises:
        ToolchainError: Java or Maven is missing, the build failed, or a unit test failed.
    """
    java = Path(find_java({**RELEASES, **CORE_RELEASES}[version]).path).resolve()
    command = [find_maven(), "--batch-mode", "--quiet", f"-Dopensearch.version={version}", "package"]
    environment = os.environ | {"JAVA_HOME": str(java.parent.parent)}
    ran = subprocess.run(command, cwd=PROJECT, env=environment, check=False, capture_output=True, text=True)
    if ran.returncode:
        raise ToolchainError(
            f"Maven ended with status {ran.returncode!r} instead of 0:\n{ran.stdout[-6000:]}"
        )
    (archive,) = (PROJECT / "target" / version).glob("*.zip")
    return archive
