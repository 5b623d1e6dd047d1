"""Pages of the site for files outside docs/, and links that lead to them.

A link is written so that it works in the repository: `../benchmarks/README.md` in a page of docs/. In the site, a file
outside docs/ has a page below `repository/`: a Markdown file as it is, any other text file as a code block, a folder as
the list of its files. Knows nothing of MkDocs.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
DOCS = "docs/"
PREFIX = "repository/"

FENCE = re.compile(r"^(?P<fence>`{3,}|~{3,}).*?^(?P=fence)[`~]*$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?P<before>\]\()(?P<target>[^)\s]+)(?P<after>\))")
LANGUAGES = {
    ".conf": "nginx",
    ".java": "java",
    ".json": "json",
    ".py": "python",
    ".sh": "bash",
    ".toml": "toml",
    ".yaml": "yaml",
    ".yml": "yaml",
}


def repository_path(page: str) -> str | None:
    """Return the file in the repository of a page of the site; None for a generated page."""
    if page.startswith(PREFIX):
        return page.removeprefix(PREFIX)
    return DOCS + page if (ROOT / DOCS / page).is_file() else None


def page_of(path: str) -> str | None:
    """Return the page (or picture) of the site that shows a file or folder of the repository; None if it does not exist."""
    target = ROOT / path
    if path.startswith(DOCS):
        return path.removeprefix(DOCS) if target.exists() else None
    if target.is_dir():
        return page_of(f"{path}/README.md") or f"{PREFIX}{path}/index.md"
    if not target.is_file():
        return None
    return PREFIX + path if path.endswith(".md") else f"{PREFIX}{path}.md"


def linked_path(target: str, source: str) -> str | None:
    """Return the path in the repository that a link of a file leads to; None if it leads elsewhere or within the file."""
    path = target.partition("#")[0]
    if not path or "://" in path or path.startswith(("mailto:", "/")):
        return None
    return posixpath.normpath(posixpath.join(posixpath.dirname(source), path))


def rewrite_links(markdown: str, page: str) -> str:
    """Return a page's Markdown with its links to files of the repository as links to pages of the site.

    A link without a target is left as it is, so that MkDocs reports it.

    Args:
        markdown: The page.
        page: Its path in the site.
    """
    source = repository_path(page)
    if source is None:
        return markdown

    def replace(link: re.Match[str]) -> str:
        path = linked_path(link["target"], source)
        target = None if path is None else page_of(path)
        if target is None:
            return link[0]
        _, mark, anchor = link["target"].partition("#")
        relative = posixpath.relpath(target, posixpath.dirname(page))
        return f"{link['before']}{relative}{mark}{anchor}{link['after']}"

    return outside_fences(markdown, lambda text: LINK.sub(replace, text))


def outside_fences(markdown: str, change: Callable[[str], str]) -> str:
    """Return Markdown with everything but its fenced blocks changed."""
    parts, end = [], 0
    for block in FENCE.finditer(markdown):
        parts += [change(markdown[end : block.start()]), block[0]]
        end = block.end()
    return "".join([*parts, change(markdown[end:])])


def linked_files(markdown: str, source: str) -> list[str]:
    """Return the files and folders of the repository, outside docs/, that a Markdown file links to."""
    found: list[str] = []

    def collect(text: str) -> str:
        for link in LINK.finditer(text):
            target = linked_path(link["target"], source)
            if target is not None and not target.startswith(DOCS) and page_of(target) is not None:
                found.append(target)
        return text

    outside_fences(markdown, collect)
    return found


def repository_pages(docs: Mapping[str, str], more: Iterable[str]) -> dict[str, str]:
    """Return the pages below `repository/` that the site needs: path in the site → Markdown.

    Args:
        docs: File of docs/ → its Markdown.
        more: Other files of the repository to start from.
    """
    unsearched = "---\nsearch:\n  exclude: true\n---\n"
    waiting = [target for source, text in docs.items() for target in linked_files(text, source)] + [*more]
    pages: dict[str, str] = {}
    while waiting:
        path = waiting.pop()
        page = page_of(path)
        if page is None or page in pages:
            continue
        source = page.removeprefix(PREFIX)
        if (ROOT / source).is_file():
            text = (ROOT / source).read_text(encoding="utf-8")
            waiting += linked_files(text, source)
            pages[page] = unsearched + text if path == "CHANGELOG.md" else text
        else:
            pages[page] = unsearched + (folder_page(path) if (ROOT / path).is_dir() else code_page(path))
    return pages


def code_page(path: str) -> str:
    """Return a page with a file as a code block."""
    text = (ROOT / path).read_text(encoding="utf-8")
    language = LANGUAGES.get(Path(path).suffix, "docker" if Path(path).name == "Dockerfile" else "text")
    return f"# {Path(path).name}\n\n`{path}` in the repository:\n\n~~~~~ {language}\n{text.rstrip()}\n~~~~~\n"


def folder_page(path: str) -> str:
    """Return a page with the names of a folder's files."""
    names = sorted(one.name for one in (ROOT / path).iterdir() if not one.name.startswith((".", "__")))
    listed = "\n".join(f"- `{name}`" for name in names)
    return f"# {path}/\n\nFiles in this folder of the repository:\n\n{listed}\n"
