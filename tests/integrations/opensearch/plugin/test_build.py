"""The plugin's zip, for every tested version of OpenSearch."""

from __future__ import annotations

import re
import zipfile

import pytest

import qwen_rerank_plugins
from tests.integrations.opensearch.nodes.native_plugin import PROJECT, VERSIONS, build_plugin

JAVA_11 = 55
POLICY = "plugin-security.policy"


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("version", VERSIONS)
def test_the_zip_is_a_plugin_for_one_version(version: str) -> None:
    """The build runs the unit tests."""
    path = build_plugin(version)
    assert path.name == f"opensearch-qwen-rerank-{qwen_rerank_plugins.__version__}-opensearch-{version}.zip"
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
        assert names == {
            f"opensearch-qwen-rerank-{qwen_rerank_plugins.__version__}.jar",
            "plugin-descriptor.properties",
            "LICENSE",
            *([POLICY] if version.startswith("2.") else []),
        }
        descriptor = archive.read("plugin-descriptor.properties").decode()
        assert f"opensearch.version={version}\n" in descriptor
        with (
            archive.open(next(name for name in names if name.endswith(".jar"))) as jar,
            zipfile.ZipFile(jar) as classes,
        ):
            compiled = [name for name in classes.namelist() if name.endswith(".class")]
            assert compiled
            assert {classes.read(name)[7] for name in compiled} == {JAVA_11}


def test_the_plugin_has_the_version_of_the_package() -> None:
    found = re.search(r"<version>(.*)</version>", (PROJECT / "pom.xml").read_text(encoding="utf-8"))
    assert found
    assert found[1] == qwen_rerank_plugins.__version__
