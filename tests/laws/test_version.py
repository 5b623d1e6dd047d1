"""One version, written once."""

from __future__ import annotations

import re
from importlib.metadata import version

import qwen_rerank_plugins
from tests.laws.sources import ROOT


def test_the_installed_distribution_has_the_version_of_the_package() -> None:
    assert version("qwen-rerank-plugins") == qwen_rerank_plugins.__version__


def test_the_changelog_has_an_entry_for_the_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    released = re.findall(r"^## \[(\d[^\]]*)\] - \d{4}-\d{2}-\d{2}$", changelog, re.MULTILINE)
    assert released[0] == qwen_rerank_plugins.__version__
    assert changelog.index("## [Unreleased]") < changelog.index(f"## [{released[0]}]")


def test_pyproject_holds_no_version_of_its_own() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert 'dynamic = ["version"]' in text
    assert not re.search(r"^version\s*=", text, re.MULTILINE)


def test_what_is_built_elsewhere_has_the_same_version() -> None:
    """The OpenSearch plugin's build file, and the images that deploy/ names."""
    pom = (ROOT / "integrations" / "opensearch-plugin" / "pom.xml").read_text(encoding="utf-8")
    plugin = re.search(r"<version>([^<]+)</version>", pom)
    assert plugin is not None
    assert plugin[1] == qwen_rerank_plugins.__version__
    images = {
        version
        for path in sorted((ROOT / "deploy").iterdir())
        for version in re.findall(r"qwen-rerank(?:-ray)?:([\w.]+)", path.read_text(encoding="utf-8"))
    }
    assert images == {qwen_rerank_plugins.__version__}


def test_the_wrappers_need_the_base_of_their_version() -> None:
    major, minor, _ = qwen_rerank_plugins.__version__.split(".")
    wanted = f'"qwen-rerank-plugins>={major}.{minor},<{major}.{int(minor) + 1}"'
    wrappers = sorted((ROOT / "integrations").glob("*/pyproject.toml"))
    assert wrappers
    assert [str(path) for path in wrappers if wanted not in path.read_text(encoding="utf-8")] == []
