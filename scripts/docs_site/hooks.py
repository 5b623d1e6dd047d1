"""MkDocs' events: add pages to the site, expand the navigation, adapt each page's Markdown.

Named under `hooks` in mkdocs.yml.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from scripts.docs_site.reference import reference_pages
from scripts.docs_site.repository import DOCS, PREFIX, outside_fences, repository_pages, rewrite_links
from scripts.settings_table import without_settings

NOTE = re.compile(r"<!-- site:(.*?)-->", re.DOTALL)
TAGS = re.compile(r"^(```[\w-]+) [^`\n]*$", re.MULTILINE)


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the generated pages and the pages of files outside docs/, and expand the navigation."""
    docs = {DOCS + file.src_uri: file.content_string for file in files.documentation_pages()}
    named = [name.removeprefix(PREFIX) for name in page_names(config.nav) if name.startswith(PREFIX)]
    for path, markdown in {**reference_pages(), **repository_pages(docs, named)}.items():
        files.append(File.generated(config, path, content=markdown))
    config.nav = expand(config.nav, sorted(file.src_uri for file in files.documentation_pages()))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001 (an event)
    """Adapt a page that is written for the repository.

    Links to files of the repository lead to their pages, tables with a generated page of their own are left out,
    `<!-- site: ... -->` is shown, and of a code block's tags (`python run`) only the language is kept.
    """
    markdown = without_settings(markdown)
    markdown = outside_fences(markdown, lambda text: NOTE.sub(lambda note: note[1].strip(), text))
    return TAGS.sub(r"\1", rewrite_links(markdown, page.file.src_uri))


def page_names(nav: Any) -> Iterable[str]:
    """Yield every page and pattern of a navigation."""
    if isinstance(nav, str):
        yield nav
    else:
        for entry in nav.values() if isinstance(nav, Mapping) else nav:
            yield from page_names(entry)


def expand(nav: Any, pages: Iterable[str]) -> Any:
    """Return a navigation whose patterns are replaced by the pages that match and that no entry before names."""
    seen: set[str] = {name for name in page_names(nav) if "*" not in name}

    def expanded(entries: Iterable[Any]) -> Iterable[Any]:
        for entry in entries:
            if isinstance(entry, Mapping):
                yield {
                    title: [*expanded(below)] if isinstance(below, list) else below
                    for title, below in entry.items()
                }
            elif "*" in entry:
                matches = [name for name in fnmatch.filter(pages, entry) if name not in seen]
                seen.update(matches)
                yield from matches
            else:
                yield entry

    return [*expanded(nav)]
