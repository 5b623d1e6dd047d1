"""A folder whose disk can be filled: a small tmpfs where this user may mount one, or else a limit on the size of files."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import psutil

TMPFS_BYTES = 48 << 20
LIMIT_BYTES = 1 << 16

FullDisk = Callable[[int], AbstractContextManager[None]]
"""Fills the disk of the process with this id while a block runs."""


@contextmanager
def small_disk(folder: Path) -> Iterator[FullDisk]:
    """Make a folder on a disk that can be filled, until the block ends."""
    folder.mkdir()
    if (
        os.geteuid()
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={TMPFS_BYTES}", "tmpfs", folder], check=False
        ).returncode
    ):
        yield _limited
        return
    try:
        yield lambda _: _filled(folder / "ballast")
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@contextmanager
def _filled(ballast: Path) -> Iterator[None]:
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(1 << 16))
    try:
        yield
    finally:
        ballast.unlink()


@contextmanager
def _limited(pid: int) -> Iterator[None]:
    """Fail writes above a size with EFBIG, those of the log included."""
    process = psutil.Process(pid)
    before = process.rlimit(psutil.RLIMIT_FSIZE)
    process.rlimit(psutil.RLIMIT_FSIZE, (LIMIT_BYTES, before[1]))
    try:
        yield
    finally:
        process.rlimit(psutil.RLIMIT_FSIZE, before)
