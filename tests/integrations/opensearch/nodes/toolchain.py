"""Finds the Java and the Maven that a node needs; as root on a Debian-like system it installs missing ones.

A missing program is an error that says what to install: tests of real nodes fail without a Java and are not skipped.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tests.integrations.opensearch.nodes.releases import Release

UNPRIVILEGED = "nobody"
JVM_FOLDERS = ("/usr/lib/jvm", "/Library/Java/JavaVirtualMachines")


class ToolchainError(RuntimeError):
    """A program that a node needs is missing."""


@dataclass(frozen=True, slots=True)
class Java:
    """An installed Java.

    Attributes:
        path: Path of the program.
        major: Major version, such as 21.
    """

    path: str
    major: int


def is_root() -> bool:
    """Whether this process runs as root, which OpenSearch refuses."""
    return os.geteuid() == 0


def unprivileged() -> dict[str, Any]:
    """Return the options of `subprocess` that run a program as an unprivileged user, if this process is root."""
    if not is_root():
        return {}
    user = pwd.getpwnam(UNPRIVILEGED)
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def find_java(release: Release) -> Java:
    """Return a Java that the release supports, installed if needed; the one that it was released with is preferred.

    Raises:
        ToolchainError: No such Java is installed or can be installed.
    """
    found = _supported(release)
    if not found and (package := _java_package(release)):
        _apt_install(package)
        found = _supported(release)
    if found:
        return min(found, key=lambda java: (java.major != release.preferred_java, java.major))
    raise ToolchainError(
        f"no Java for OpenSearch {release.version!r} found in JAVA_HOME, on the PATH or in {JVM_FOLDERS[0]}. "
        f"Install Java {release.oldest_java} to {release.newest_java}, for example "
        f"openjdk-{release.preferred_java}-jdk-headless."
    )


def find_maven() -> str:
    """Return the path of Maven, installed if needed.

    Raises:
        ToolchainError: Maven is not installed and cannot be installed.
    """
    if not shutil.which("mvn"):
        _apt_install("maven")
    if found := shutil.which("mvn"):
        return found
    raise ToolchainError("no program 'mvn' found on the PATH. Install Maven 3.6 or newer (Debian: maven).")


def _supported(release: Release) -> list[Java]:
    versions = ((path, _major(path)) for path in dict.fromkeys(_java_programs()))
    return [Java(path, major) for path, major in versions if major is not None and release.runs_on(major)]


def _java_programs() -> Iterator[str]:
    # Hosted runners have their Javas in JAVA_HOME_17_X64, JAVA_HOME_21_X64, ...
    for name in sorted(os.environ):
        if name.startswith("JAVA_HOME"):
            yield str(Path(os.environ[name], "bin", "java"))
    if on_path := shutil.which("java"):
        yield on_path
    for folder in JVM_FOLDERS:
        yield from sorted(map(str, Path(folder).glob("*/bin/java")))
        yield from sorted(map(str, Path(folder).glob("*/Contents/Home/bin/java")))


def _major(java: str) -> int | None:
    """Return the major version of a Java that the node's user can run, or None."""
    try:
        ran = subprocess.run(
            [java, "-version"],
            capture_output=True,
            check=True,
            text=True,
            timeout=60,
            cwd="/",
            **unprivileged(),
        )
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.search(r'version "(?:1\.)?(\d+)', ran.stderr)
    return int(found[1]) if found else None


def _java_package(release: Release) -> str | None:
    """Return the Debian package of the preferred Java, or of the newest supported one."""
    known = [major for major in _known_to_apt() if release.runs_on(major)]
    if not known:
        return None
    major = release.preferred_java if release.preferred_java in known else max(known)
    return f"openjdk-{major}-jdk-headless"


@cache
def _known_to_apt() -> tuple[int, ...]:
    if not _can_install():
        return ()
    pattern = "^openjdk-[0-9]+-jdk-headless$"
    subprocess.run(["apt-get", "update", "-qq"], check=False, capture_output=True)
    listed = subprocess.run(
        ["apt-cache", "search", "--names-only", pattern], check=False, capture_output=True, text=True
    ).stdout
    return tuple(int(major) for major in re.findall(r"^openjdk-(\d+)-", listed, re.MULTILINE))


def _can_install() -> bool:
    return is_root() and shutil.which("apt-get") is not None


def _apt_install(package: str) -> None:
    if _can_install():
        command = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", package]
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(command, check=False, env=environment, capture_output=True)
