"""Links to files outside docs/ lead to pages of the site, and the navigation's patterns to pages."""

from __future__ import annotations

import pytest
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from scripts.docs_site.hooks import expand, on_page_markdown
from scripts.docs_site.repository import ROOT, linked_files, page_of, repository_pages, rewrite_links


@pytest.mark.parametrize(
    ("page", "link", "expected"),
    [
        ("scaling.md", "../deploy/README.md#x", "repository/deploy/README.md#x"),
        ("scaling.md", "../deploy/nginx.conf", "repository/deploy/nginx.conf.md"),
        ("decisions/0013-one-scheduler.md", "../measured.md", "../measured.md"),
        ("decisions/0013-one-scheduler.md", "../../README.md", "../repository/README.md"),
        ("python.md", "../deploy", "repository/deploy/README.md"),
        ("python.md", "../examples", "repository/examples/index.md"),
        ("repository/deploy/README.md", "../docs/scaling.md", "../../scaling.md"),
        ("repository/integrations/opensearch/README.md", "role.json", "role.json.md"),
        ("repository/README.md", "docs/workbench.png", "../workbench.png"),
        ("python.md", "#ranking", "#ranking"),
        ("python.md", "https://example.org/a.md", "https://example.org/a.md"),
        ("python.md", "../nowhere.md", "../nowhere.md"),  # MkDocs reports it
        ("reference/cli.md", "../errors.md", "../errors.md"),  # a generated page has links of the site
    ],
)
def test_a_link_of_the_repository_becomes_one_of_the_site(page: str, link: str, expected: str) -> None:
    assert rewrite_links(f"a [text]({link}) here", page) == f"a [text]({expected}) here"


def test_code_is_left_alone() -> None:
    text = "```yaml\n[a](../deploy/README.md)\n```\n~~~\n[a](../deploy/README.md)\n~~~\n"
    assert rewrite_links(text, "scaling.md") == text
    assert linked_files(text, "docs/scaling.md") == []


def test_linked_files_become_pages_and_so_do_the_files_that_these_link_to() -> None:
    found = repository_pages({"docs/x.md": "[a](../integrations/opensearch/README.md)"}, ["CHANGELOG.md"])
    assert "repository/integrations/opensearch-plugin/README.md" in found
    assert '"cluster_permissions"' in found["repository/integrations/opensearch/role.json.md"]
    assert found["repository/integrations/opensearch/role.json.md"].startswith(
        "---\nsearch:\n  exclude: true\n"
    )
    assert "# Changelog" in found["repository/CHANGELOG.md"]
    assert page_of("docs/none.md") is None


def test_patterns_of_the_navigation_name_what_no_entry_before_or_after_names() -> None:
    pages = ["index.md", "t/a.md", "t/b.md", "t/python.md", "z.md"]
    nav = [
        {"Start": ["index.md", "none*.md"]},
        {"T": ["t/python*.md", "t/*.md"]},
        {"B": [{"The b": "t/b.md"}]},
    ]
    assert expand(nav, pages) == [
        {"Start": ["index.md"]},
        {"T": ["t/python.md", "t/a.md"]},
        {"B": [{"The b": "t/b.md"}]},
    ]


def test_a_page_is_adapted_to_the_site() -> None:
    """Its own table of settings, tags of code blocks, and comments that are text of the site."""
    config = MkDocsConfig()
    config.load_dict({"site_name": "x", "docs_dir": "docs", "site_dir": "site", "use_directory_urls": False})
    page = Page(None, File("x.md", None, "site", use_directory_urls=False), config)

    def adapt(text: str) -> str:
        return on_page_markdown(text, page=page, config=config, files=Files([]))

    assert adapt("<!-- site: [S](reference/settings.md) -->") == "[S](reference/settings.md)"
    code = "x = 1  # <!-- site: no -->\n```\n"
    assert adapt(f"```python run\n{code}") == f"```python\n{code}"
    assert adapt("```text output\n[1]\n```\n") == "```text\n[1]\n```\n"
    written = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")
    assert "| `max_length` |" in written
    assert "| `max_length` |" not in adapt(written)
