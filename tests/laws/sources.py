"""The repository for the tests of this folder: tracked files, the package's modules as syntax trees, fresh interpreters."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
PACKAGE = ROOT / "qwen_rerank_plugins"

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True)
class Module:
    """A module of the package: its path from the root, its text, its syntax tree."""

    path: str
    text: str
    tree: ast.Module


@cache
def tracked_files() -> tuple[str, ...]:
    """Every file that is tracked or not ignored, relative to the root."""
    if not (ROOT / ".git").exists():
        return unpacked_files()
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout
    return tuple(sorted(name for name in set(listing.split("\0")) if name and (ROOT / name).is_file()))


def unpacked_files() -> tuple[str, ...]:
    """The same of a tree that is not a checkout, as far as its files show: no caches, no environment."""
    kept_hidden = {".ci", ".gitattributes", ".gitignore"}
    paths = (path.relative_to(ROOT) for path in ROOT.rglob("*") if path.is_file())
    visible = (
        path for path in paths if not any(p.startswith(".") for p in path.parts if p not in kept_hidden)
    )
    return tuple(
        sorted(str(path) for path in visible if not {"__pycache__", "dist", "build"} & set(path.parts))
    )


@cache
def package_modules() -> tuple[Module, ...]:
    """All Python modules of the package."""
    names = [
        name for name in tracked_files() if name.startswith("qwen_rerank_plugins/") and name.endswith(".py")
    ]
    texts = [(name, (ROOT / name).read_text(encoding="utf-8")) for name in names]
    return tuple(Module(name, text, ast.parse(text)) for name, text in texts)


def functions(tree: ast.AST) -> Iterator[Function]:
    """Every function and method below a node, nested ones included."""
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def public_definitions(tree: ast.Module) -> Iterator[Function | ast.ClassDef]:
    """Public functions and classes of a module, and the public methods of its public classes."""
    pending: list[ast.stmt] = list(tree.body)
    for node in pending:
        if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef):
                pending.extend(node.body)


def run_fresh(code: str) -> subprocess.CompletedProcess[str]:
    """Run Python code in a new interpreter that measures no coverage, with an empty environment of settings."""
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=plain_environment(),
        capture_output=True,
        check=False,
        text=True,
    )


def plain_environment() -> dict[str, str]:
    """This process's environment without coverage measurement, whose cost would be measured too."""
    programs = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    kept = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    return kept | {"PATH": programs}
