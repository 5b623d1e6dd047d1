"""Assembles the home folder of an OpenSearch node from Maven artifacts, once per version, outside the tree.

Maven runs with this machine's settings, which name the repositories. A home is not changed after its assembly: each node has its
own folders for configuration, data and logs, see node.py.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.integrations.opensearch.nodes.releases import Module, Release
from tests.integrations.opensearch.nodes.toolchain import ToolchainError, find_maven, is_root

COPY = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"
ATTEMPTS = 3
CACHE_VARIABLE = "QWEN_RERANK_TEST_CACHE"

_PROJECT = (
    '<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>'
    "<groupId>local</groupId><artifactId>{name}</artifactId><version>1</version>{more}</project>"
)
_DEPENDENCY = (
    "<dependency><groupId>{}</groupId><artifactId>{}</artifactId><version>{}</version>"
    "<type>{}</type></dependency>"
)


def cache_folder() -> Path:
    """Return the folder of all homes: QWEN_RERANK_TEST_CACHE, or the user's cache folder.

    An unprivileged user must read the homes of root, and cannot read root's own cache folder.
    """
    if chosen := os.environ.get(CACHE_VARIABLE):
        return Path(chosen).resolve() / "opensearch"
    base = Path("/var/cache") if is_root() else Path.home() / ".cache"
    return base / "qwen-rerank-plugins" / "opensearch"


def home_of(release: Release) -> Path:
    """Return the release's home, assembled if needed; concurrent processes take turns.

    Raises:
        ToolchainError: Maven is missing or failed, or the node's user cannot read the home.
    """
    cache = cache_folder()
    home = cache / f"{release.version}-{release.digest}"
    cache.mkdir(parents=True, exist_ok=True)
    _check_reachable(cache)
    with _turn(cache / f"{home.name}.lock"):
        if not home.is_dir():
            _assemble(release, home)
    return home


@contextmanager
def _turn(path: Path) -> Iterator[None]:
    with path.open("w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _check_reachable(cache: Path) -> None:
    if not is_root():
        return
    closed = [path for path in (cache, *cache.parents) if not path.stat().st_mode & stat.S_IXOTH]
    if closed:
        raise ToolchainError(
            f"the cache {str(cache)!r} is below {str(closed[-1])!r}, which only its owner can read, and OpenSearch "
            f"does not run as root. Set {CACHE_VARIABLE} to a folder that every user can read."
        )


def _assemble(release: Release, home: Path) -> None:
    """Assemble a home in a temporary folder, and move it to its place when it is complete."""
    print(f"assembling OpenSearch {release.version} in {home}: up to 500 MB, once", file=sys.stderr)
    work = Path(tempfile.mkdtemp(prefix=f"{release.version}-", dir=home.parent))
    try:
        jars = _fetch(release, work / "maven")
        whole = work / "home"
        shutil.copytree(jars["lib"], whole / "lib")
        (whole / "bin").mkdir()  # version 2 tries to create a missing one without the permission
        for name, module in release.modules.items():
            _add_module(release, name, module, jars[name], whole)
        for name in release.tools:
            shutil.copytree(jars[name], whole / name)
        (whole / "plugins").mkdir()
        for archive in sorted(jars["plugins"].glob("*.zip")) if release.plugins else ():
            add_plugin(archive, whole / "plugins")
        _open_for_reading(whole)
        whole.rename(home)
    finally:
        shutil.rmtree(work)


def _fetch(release: Release, project: Path) -> dict[str, Path]:
    """Copy all artifacts in one Maven run of a project with one module per part; return the folders."""
    parts = {"lib": release.server, **release.tools}
    if release.plugins:
        parts["plugins"] = release.plugins
    for name, module in release.modules.items():
        parts[name] = tuple(
            f"org.opensearch.plugin:{artifact}:{release.version}" for artifact in module.artifacts
        )
    _write_project(project, parts)
    command = [find_maven(), "--batch-mode", "--quiet", COPY]
    for attempt in range(1, ATTEMPTS + 1):
        ran = subprocess.run(command, cwd=project, check=False, capture_output=True, text=True)
        if ran.returncode == 0:
            return {name: project / name / "target" / "dependency" for name in parts}
        print(f"Maven failed, attempt {attempt} of {ATTEMPTS}", file=sys.stderr)
    raise ToolchainError(
        f"Maven ended with status {ran.returncode!r} instead of 0:\n{ran.stdout[-4000:]}{ran.stderr[-2000:]}"
    )


def _write_project(project: Path, parts: Mapping[str, Sequence[str]]) -> None:
    for name, coordinates in parts.items():
        kind = "zip" if name == "plugins" else "jar"
        rows = "".join(_DEPENDENCY.format(*one.split(":"), kind) for one in coordinates)
        alone = str(kind == "zip").lower()  # a zip contains its dependencies
        more = (
            f"<properties><excludeTransitive>{alone}</excludeTransitive></properties>"
            f"<dependencies>{rows}</dependencies>"
        )
        (project / name).mkdir(parents=True)
        (project / name / "pom.xml").write_text(_PROJECT.format(name=name, more=more), encoding="utf-8")
    listed = "".join(f"<module>{name}</module>" for name in parts)
    more = f"<packaging>pom</packaging><modules>{listed}</modules>"
    (project / "pom.xml").write_text(_PROJECT.format(name="all", more=more), encoding="utf-8")


def _add_module(release: Release, name: str, module: Module, jars: Path, home: Path) -> None:
    folder = home / "modules" / name
    folder.mkdir(parents=True)
    for jar in jars.glob("*.jar"):
        if not (home / "lib" / jar.name).exists():  # a duplicate class stops the node
            shutil.copy(jar, folder)
    descriptor = {
        "description": name,
        "version": release.version,
        "name": name,
        "classname": module.classname,
        "java.version": "11",
        "opensearch.version": release.version,
        "custom.foldername": "",
        "extended.plugins": "",
        "has.native.controller": "false",
    }
    lines = "".join(f"{key}={value}\n" for key, value in descriptor.items())
    (folder / "plugin-descriptor.properties").write_text(lines, encoding="utf-8")
    if release.needs_policies:
        policy = "grant { permission java.security.AllPermission; };\n"
        (folder / "plugin-security.policy").write_text(policy, encoding="utf-8")


def add_plugin(archive: Path, plugins: Path) -> None:
    """Unpack a plugin's zip into a folder of plugins, below the plugin's name."""
    with zipfile.ZipFile(archive) as content:
        descriptor = content.read("plugin-descriptor.properties").decode()
        name = next(line[5:] for line in descriptor.splitlines() if line.startswith("name="))
        content.extractall(plugins / name)


def _open_for_reading(home: Path) -> None:
    """Make it readable for every user, independent of this process's umask."""
    home.chmod(0o755)
    for path in home.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
