"""Write files so that they survive a crash of the machine."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

__all__ = ["fsync_path", "write_atomically"]


def fsync_path(path: Path) -> None:
    """Flush a file, or the names in a folder, to disk.

    Raises:
        OSError: The path does not exist, or the disk failed.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Path, text: str) -> None:
    """Write a file in UTF-8 that is complete under its name, or unchanged if an error occurs.

    Raises:
        OSError: The file cannot be written.
    """
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        part.write_text(text, encoding="utf-8", newline="\n")
        fsync_path(part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    fsync_path(path.absolute().parent)
