"""The integrations as distributions: a wheel with the package only, light requirements, the base package's version."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
import tomllib
import zipfile
from dataclasses import dataclass
from email.message import Message
from email.parser import Parser
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import qwen_rerank_plugins
from tests.laws.sources import ROOT, plain_environment, tracked_files

FRAMEWORKS = {
    "haystack": "haystack-ai",
    "langchain": "langchain-core",
    "llama_index": "llama-index-core",
    "opensearch": "opensearch-py",
}
"""Folder of an integration → the one distribution that it needs beside the base package."""


@dataclass(frozen=True, slots=True)
class Integration:
    """An integration's folder, and its wheel.

    Attributes:
        folder: Its folder below `integrations`.
        project: What its pyproject.toml says.
        wheel: The built wheel.
    """

    folder: str
    project: dict[str, Any]
    wheel: zipfile.ZipFile

    @property
    def name(self) -> str:
        return str(self.project["project"]["name"])

    @property
    def home(self) -> Path:
        return ROOT / "integrations" / self.folder

    @property
    def module(self) -> ModuleType:
        version_file = Path(self.project["tool"]["hatch"]["version"]["path"])
        return importlib.import_module(".".join(version_file.parent.parts))

    @property
    def path(self) -> str:
        """The package's folder in the wheel, with a slash at the end."""
        return self.module.__name__.replace(".", "/") + "/"

    @property
    def info(self) -> str:
        """The wheel's `.dist-info` folder."""
        return f"{self.name.replace('-', '_')}-{qwen_rerank_plugins.__version__}.dist-info/"

    @property
    def metadata(self) -> Message:
        return Parser().parsestr(self.wheel.read(self.info + "METADATA").decode())


@pytest.fixture(scope="module", params=sorted(FRAMEWORKS))
def integration(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Integration:
    """Each integration in turn, with a wheel built without network: the build backend is a test requirement."""
    target = tmp_path_factory.mktemp("wheel")
    home = ROOT / "integrations" / request.param
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(target)]
    subprocess.run(command, cwd=home, env=plain_environment(), check=True, capture_output=True, timeout=60)
    project = tomllib.loads((home / "pyproject.toml").read_text(encoding="utf-8"))
    return Integration(request.param, project, zipfile.ZipFile(next(target.glob("*.whl"))))


def test_every_integration_is_looked_at() -> None:
    found = {Path(name).parts[1] for name in tracked_files() if re.fullmatch(r"integrations/\w+/.*", name)}
    assert found == set(FRAMEWORKS)


def test_the_wheel_holds_the_package_its_types_and_its_licence_alone(integration: Integration) -> None:
    prefix = f"integrations/{integration.folder}/"
    tracked = {name.removeprefix(prefix) for name in tracked_files() if name.startswith(prefix)}
    shipped = {name for name in integration.wheel.namelist() if not name.startswith(integration.info)}
    assert shipped == {name for name in tracked if name.startswith(integration.path)}
    assert integration.path + "py.typed" in shipped
    assert integration.info + "licenses/LICENSE" in integration.wheel.namelist()


def test_nothing_stands_above_the_package(integration: Integration) -> None:
    """An `__init__.py` in a namespace package would hide every other distribution of that namespace."""
    above = [str(folder) for folder in Path(integration.path).parents if folder.name]
    stray = {f"{folder}/__init__.py" for folder in above}
    assert stray & set(integration.wheel.namelist()) == set()
    assert not any((integration.home / name).exists() for name in stray)


def test_it_needs_its_framework_and_the_base_package_alone(integration: Integration) -> None:
    metadata = integration.metadata
    assert metadata["Name"] == integration.name
    assert metadata["License-Expression"] == "Apache-2.0"
    required = [line for line in metadata.get_all("Requires-Dist") or [] if "extra ==" not in line]
    names = [re.split(r"[<>=!\[; ]", line)[0] for line in required]
    assert sorted(names) == sorted([FRAMEWORKS[integration.folder], "qwen-rerank-plugins"])
    assert [line for line in required if "<" not in line] == [], "a next major version may differ"
    assert "local" in (metadata.get_all("Provides-Extra") or [])


def test_its_types_are_checked(integration: Integration) -> None:
    """One run of mypy checks all distributions, so a new one must be among its files."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["mypy"]
    checked = [Path(name) for name in settings["files"]]
    package = Path("integrations", integration.folder, integration.path)
    assert [path for path in checked if package.is_relative_to(path)] != []
    assert f"integrations/{integration.folder}" in settings["mypy_path"]


def test_its_version_is_the_base_packages(integration: Integration) -> None:
    assert integration.module.__version__ == version(integration.name) == qwen_rerank_plugins.__version__


def test_its_public_names_exist_and_are_sorted(integration: Integration) -> None:
    names = integration.module.__all__
    assert names == sorted(set(names))
    assert [name for name in names if not hasattr(integration.module, name)] == []


def test_it_uses_only_public_modules_of_the_base_package(integration: Integration) -> None:
    sources = {
        path.name: path.read_text(encoding="utf-8")
        for path in (integration.home / integration.path).rglob("*.py")
    }
    imported = {
        found for text in sources.values() for found in re.findall(r"\bqwen_rerank_plugins[\w.]*", text)
    }
    assert "qwen_rerank_plugins" in imported
    private = re.compile(r"\._|\.core\b|\.service\b|\.remote\b")
    assert [name for name in sorted(imported) if private.search(name)] == []
