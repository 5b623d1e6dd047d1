"""Finds the active firewall of this machine, and its commands that open and close a port. Knows no service."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass

__all__ = ["Firewall", "active_firewall"]

TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Firewall:
    """The commands of an active firewall for one port.

    Attributes:
        name: ufw or firewalld.
        opening: Command that adds the rule.
        closing: Command that removes it.
    """

    name: str
    opening: tuple[str, ...]
    closing: tuple[str, ...]

    def open(self) -> str:
        """Add the rule, and return an error message, empty on success."""
        code, output = _run(self.opening)
        return "" if code == 0 else output or f"exit code {code}"


def active_firewall(port: int) -> Firewall | None:
    """Return the active firewall with its commands for a TCP port, or None. Reading ufw's state requires root."""
    code, output = _run(("ufw", "status"))
    if code == 0 and output.startswith("Status: active"):
        rule = ("allow", f"{port}/tcp")
        return Firewall("ufw", ("ufw", *rule), ("ufw", "delete", *rule))
    code, output = _run(("firewall-cmd", "--state"))
    if code == 0 and output.startswith("running"):
        return Firewall(
            "firewalld",
            ("firewall-cmd", f"--add-port={port}/tcp"),
            ("firewall-cmd", f"--remove-port={port}/tcp"),
        )
    return None


def _run(command: tuple[str, ...]) -> tuple[int, str]:
    """Run a command without a shell and without questions, and return its exit code and output."""
    path = shutil.which(command[0])
    if path is None:
        return 127, ""
    try:
        done = subprocess.run(  # noqa: S603 (fixed commands and a number)
            [path, *command[1:]],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
            env={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C"},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return 126, type(error).__name__
    return done.returncode, done.stdout.strip()
