"""The documentation runs: tagged blocks are executed, every Python block compiles, every link has a target.

A block whose fence says ```` ```python run ```` or ```` ```bash run ```` is run in an empty folder, each in its own process. The blocks of
a tutorial run in order in one folder: see `test_tutorials.py`.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from scripts.tutorials import is_tutorial
from tests.laws.sources import ROOT, package_modules, plain_environment, tracked_files

FENCE = re.compile(r"^```(?P<tag>[^\n`]*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
# Links to pages that only the site has; MkDocs checks them.
SITE_NOTE = re.compile(r"<!-- site:.*?-->", re.DOTALL)
LINK = re.compile(r"\]\((?P<target>[^)\s]+)\)")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block of a page."""

    page: str
    line: int
    tag: str
    code: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def pages() -> list[str]:
    return [name for name in tracked_files() if name.endswith(".md")]


def blocks_of(page: str, text: str) -> list[Block]:
    found = FENCE.finditer(text)
    return [
        Block(page, text[: one.start()].count("\n") + 1, one["tag"].strip(), one["code"]) for one in found
    ]


MAX_ARCHITECTURE_LINES = 60
BLOCKS = [block for page in pages() for block in blocks_of(page, (ROOT / page).read_text(encoding="utf-8"))]


def broken_links(page: str, text: str) -> list[str]:
    shown = SITE_NOTE.sub("", FENCE.sub("", text))
    targets = [match["target"].partition("#")[0] for match in LINK.finditer(shown)]
    local = [
        target for target in targets if target and "://" not in target and not target.startswith("mailto:")
    ]
    return [target for target in local if not ((ROOT / page).parent / target).exists()]


@pytest.mark.parametrize(
    "block",
    [block for block in BLOCKS if block.tag.endswith(" run") and not is_tutorial(block.page)],
    ids=str,
)
def test_a_tagged_block_runs(block: Block, tmp_path: Path) -> None:
    command = {
        "python run": [sys.executable, "-W", "error::DeprecationWarning:__main__", "-c", block.code],
        "bash run": ["bash", "-euo", "pipefail", "-c", block.code],
    }[block.tag]
    ran = subprocess.run(
        command,
        cwd=tmp_path,
        env=plain_environment(),
        capture_output=True,
        check=False,
        text=True,
        timeout=100,
    )
    assert ran.returncode == 0, f"{block}\n{ran.stdout}\n{ran.stderr}"


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.tag.startswith("python")], ids=str)
def test_a_python_block_compiles(block: Block) -> None:
    compile(block.code, str(block), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


@pytest.mark.parametrize("page", pages())
def test_links_lead_somewhere(page: str) -> None:
    assert broken_links(page, (ROOT / page).read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("page", [page for page in pages() if page.startswith("docs/")])
def test_every_page_can_be_reached_from_another(page: str) -> None:
    others = {name: (ROOT / name).read_text(encoding="utf-8") for name in pages() if name != page}
    targets = {
        ((ROOT / name).parent / match["target"].partition("#")[0]).resolve()
        for name, text in others.items()
        for match in LINK.finditer(text)
    }
    assert (ROOT / page).resolve() in targets


def test_the_readme_shows_running_code_for_python_and_the_command_line() -> None:
    tags = [block.tag for block in BLOCKS if block.page == "README.md"]
    assert {"python run", "bash run"} <= set(tags)


def rooms() -> list[str]:
    """Modules at the package's root, and folders of modules at every level, relative to the package."""
    paths = [Path(module.path).relative_to("qwen_rerank_plugins") for module in package_modules()]
    folders = {f"{path.parent}/" for path in paths if path.parent != Path()}
    return sorted(folders | {str(path) for path in paths if path.parent == Path() and path.name[0] != "_"})


def test_the_architecture_is_one_page_that_names_every_room() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert [name for name in rooms() if f"`{name}`" not in text] == []
    assert len(text.splitlines()) <= MAX_ARCHITECTURE_LINES


def test_the_checks_see_a_fault() -> None:
    page = "<!-- site: [x](x.md) -->a [dead link](nowhere.md) and a [live one](README.md)\n```python run\nprint(1)\n```\n"
    assert broken_links("README.md", page) == ["nowhere.md"]
    assert blocks_of("x.md", page) == [Block("x.md", 2, "python run", "print(1)\n")]


def test_the_documented_start_commands_exist() -> None:
    mentioned = re.findall(r"bash ((?:\w+/)?\w+\.sh)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert mentioned
    assert [name for name in mentioned if not (ROOT / name).is_file()] == []
