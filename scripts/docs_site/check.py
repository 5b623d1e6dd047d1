"""Check a built site: every link leads to a file and an anchor of the site, and no page loads anything from another host.

python -m scripts.docs_site.check site            # check it, and print how many pages and links it has
python -m scripts.docs_site.check site --words    # print the words of each page as well
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

__all__ = ["HtmlPage", "broken_links", "outside_resources", "read_site"]

RESOURCES = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src", "video": "src"}
"""Element → attribute with the address of something that a browser loads with the page."""


@dataclass(slots=True)
class HtmlPage(HTMLParser):
    """What a page contains.

    Attributes:
        anchors: Its anchors.
        links: The addresses in its links.
        resources: The addresses of what a browser loads with it.
        words: The number of words in its article.
    """

    anchors: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    resources: list[str] = field(default_factory=list)
    words: int = 0
    _is_article: bool = False

    def __post_init__(self) -> None:
        HTMLParser.__init__(self)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect anchors and addresses."""
        values = dict(attrs)
        self.anchors |= {name for name in (values.get("id"), values.get("name")) if name}
        self._is_article = self._is_article or tag == "article"
        if tag == "a" and values.get("href"):
            self.links.append(values["href"] or "")
        # A link that is not loaded: the address of the page before or after this one, as a hint.
        is_hint = tag == "link" and values.get("rel") in {"canonical", "next", "prev"}
        address = values.get(RESOURCES.get(tag, ""))
        if address and not is_hint:
            self.resources.append(address)

    def handle_endtag(self, tag: str) -> None:
        """Note the end of the article."""
        self._is_article = self._is_article and tag != "article"

    def handle_data(self, data: str) -> None:
        """Count words."""
        if self._is_article:
            self.words += len(data.split())


def read_site(folder: Path) -> dict[str, HtmlPage]:
    """Return the pages of a built site by their path."""
    pages = {}
    for path in sorted(folder.rglob("*.html")):
        pages[path.relative_to(folder).as_posix()] = page = HtmlPage()
        page.feed(path.read_text(encoding="utf-8"))
    return pages


def outside_resources(pages: dict[str, HtmlPage]) -> list[str]:
    """Return what pages load from other hosts: `page: address`."""
    return [
        f"{name}: {address}"
        for name, page in pages.items()
        for address in page.resources
        if urlsplit(address).netloc or urlsplit(address).scheme not in {"", "data"}
    ]


def broken_links(folder: Path, pages: dict[str, HtmlPage]) -> tuple[int, list[str]]:
    """Return the number of links and resources inside the site, and those without a target: `page: address`.

    Args:
        folder: The built site.
        pages: Its pages.
    """
    number, broken = 0, []
    for name, page in pages.items():
        for address in [*page.links, *page.resources]:
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                continue
            number += 1
            if not leads_somewhere(folder, pages, name, unquote(parts.path), unquote(parts.fragment)):
                broken.append(f"{name}: {address}")
    return number, broken


def leads_somewhere(folder: Path, pages: dict[str, HtmlPage], name: str, path: str, anchor: str) -> bool:
    """Return whether a relative address in a page has a target."""
    target = name
    if path:
        # The page of unknown addresses cannot know where it is shown: its addresses start at the root of the site.
        start = folder if name == "404.html" else (folder / name).parent
        found = start.joinpath(path.removeprefix("/") if name == "404.html" else path).resolve()
        found = found / "index.html" if found.is_dir() else found
        if not found.is_file() or not found.is_relative_to(folder.resolve()):
            return False
        target = found.relative_to(folder.resolve()).as_posix()
    return not anchor or target not in pages or anchor in pages[target].anchors


def main(arguments: list[str]) -> int:
    """Check a site and print its figures; 1 if something is broken."""
    folder = Path(arguments[0])
    pages = read_site(folder)
    number, broken = broken_links(folder, pages)
    faults = [f"no such target: {one}" for one in broken]
    faults += [f"loaded from another host: {one}" for one in outside_resources(pages)]
    if "--words" in arguments:
        for name, page in pages.items():
            print(f"{page.words:>7} {name}")
    print(
        f"{len(pages)} pages, {sum(page.words for page in pages.values())} words, {number} links in the site"
    )
    for fault in faults:
        print(f"error: {fault}", file=sys.stderr)
    return 1 if faults or not pages else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
