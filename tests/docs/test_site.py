"""The built site: complete, without a broken link, and without anything from another host."""

from __future__ import annotations

import html
import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

import qwen_rerank_plugins
from qwen_rerank_plugins import errors
from qwen_rerank_plugins.service.errors import STATUSES
from scripts.docs_site.check import HtmlPage, broken_links, outside_resources
from scripts.docs_site.check import main as check
from scripts.docs_site.http_reference import description
from scripts.docs_site.metrics_reference import described_metrics
from scripts.docs_site.reference import PACKAGES, PROGRAMS, SECTIONS, command_names, public_names
from tests.docs.conftest import build
from tests.laws.sources import ROOT, tracked_files

pytestmark = pytest.mark.timeout(600)  # the first test builds the site

TABS = ["Start", "Tutorials", "How-to", "Reference", "Explanation", "Operations"]


def text_of(site: Path, page: str) -> str:
    """The text of a page without its tags."""
    return html.unescape(re.sub(r"<[^>]+>", "", (site / page).read_text(encoding="utf-8")))


def test_every_page_of_docs_is_a_page_of_the_site(pages: dict[str, HtmlPage]) -> None:
    names = [name.removeprefix("docs/") for name in tracked_files() if re.match(r"docs/.*\.md$", name)]
    wanted = {name.replace("README.md", "index.md").removesuffix(".md") + ".html" for name in names}
    assert wanted <= set(pages)


def test_every_link_and_anchor_of_the_site_has_a_target(site: Path, pages: dict[str, HtmlPage]) -> None:
    number, broken = broken_links(site, pages)
    assert broken == []
    assert number > 100 * len(TABS)


def test_nothing_is_loaded_from_another_host(site: Path, pages: dict[str, HtmlPage]) -> None:
    assert outside_resources(pages) == []
    styles = [path.read_text(encoding="utf-8") for path in site.rglob("*.css")]
    assert styles
    assert [found for text in styles for found in re.findall(r"url\([\"']?(?:https?:)?//[^)]*", text)] == []


def test_the_search_index_can_be_read_from_a_file(site: Path) -> None:
    """A browser loads a script from a file, but no JSON."""
    script = (site / "search" / "search_index.js").read_text(encoding="utf-8")
    index = json.loads(script.removeprefix("var __index = "))
    places = {entry["location"].partition("#")[0] for entry in index["docs"]}
    assert {"index.html", "errors.html", "reference/settings.html"} <= places
    assert not [place for place in places if place.endswith("CHANGELOG.html")]
    assert 'src="assets/iframe-worker.js"' in (site / "index.html").read_text(encoding="utf-8")


def test_the_navigation_has_six_sections(site: Path) -> None:
    page = (site / "index.html").read_text(encoding="utf-8")
    tabs = page.partition('<nav class="md-tabs"')[2].partition("</nav>")[0]
    assert [" ".join(name.split()) for name in re.findall(r"<a [^>]*>(.*?)</a>", tabs, re.DOTALL)] == TABS


def test_the_start_page_leads_to_the_reference_and_to_every_integration(pages: dict[str, HtmlPage]) -> None:
    links = set(pages["index.html"].links)
    assert {f"reference/{name}.html" for name in ("settings", "cli", "http", "metrics", "python")} <= links
    for name in ("langchain", "llama_index", "haystack", "opensearch"):
        assert f"repository/integrations/{name}/index.html" in links


@pytest.mark.parametrize(("title", "section", "model"), SECTIONS, ids=[section for _, section, _ in SECTIONS])
def test_every_setting_has_an_anchor_and_its_variable(
    site: Path, pages: dict[str, HtmlPage], title: str, section: str, model: type[BaseModel]
) -> None:
    text, prefix = text_of(site, "reference/settings.html"), f"{section.upper()}_" if section else ""
    sections = {name for _, name, _ in SECTIONS}
    for name in model.model_fields:
        assert (f"{section}-{name}" if section else name) in pages["reference/settings.html"].anchors
        if name not in sections:
            assert f"QWEN_RERANK_{prefix}{name.upper()}" in text


def test_the_tables_of_settings_are_in_one_place_of_the_site(site: Path) -> None:
    for page in ("configuration.html", "operations.html"):
        assert "<th>default</th>" not in (site / page).read_text(encoding="utf-8")
    assert (site / "reference/settings.html").read_text(encoding="utf-8").count("<th>default</th>") == 4


def test_every_metric_has_an_anchor_and_its_meaning(site: Path, pages: dict[str, HtmlPage]) -> None:
    described = described_metrics()
    text = text_of(site, "reference/metrics.html")
    assert {name for name, *_ in described} <= pages["reference/metrics.html"].anchors
    assert [meaning for *_, meaning in described if meaning not in text] == []
    own = {name for name, *_ in described if name.startswith("rerank_")}
    written = set(re.findall(r"`(rerank_\w+)`", (ROOT / "docs/operations.md").read_text(encoding="utf-8")))
    assert own == written, "docs/operations.md groups the metrics that exist"


def test_every_command_and_every_option_is_shown(site: Path, pages: dict[str, HtmlPage]) -> None:
    text = text_of(site, "reference/cli.html")
    for program, app in PROGRAMS:
        for command in command_names(app):
            assert f"Usage: {program} {command} [OPTIONS]" in text
            assert f"{program}-{command}" in pages["reference/cli.html"].anchors
    assert {"--min-score", "--open-firewall", "--calibrate", "--dry-run"} <= set(
        re.findall(r"--[\w-]+", text)
    )


def test_every_error_and_every_code_has_an_anchor(pages: dict[str, HtmlPage]) -> None:
    anchors = pages["errors.html"].anchors
    assert {name.lower() for name in errors.__all__} <= anchors
    assert {one.anchor for one in STATUSES.values()} <= anchors


def test_every_address_and_every_field_is_shown(site: Path, pages: dict[str, HtmlPage]) -> None:
    document = description()
    text = text_of(site, "reference/http.html")
    for path, methods in document["paths"].items():
        for method in methods:
            assert f"{method.upper()} {path}" in text
    for name, schema in document["components"]["schemas"].items():
        assert f"schema-{name.lower()}" in pages["reference/http.html"].anchors
        for form in schema.get("anyOf", [schema]):
            assert [one for one in form.get("properties", {}) if one not in text] == []


@pytest.mark.parametrize("page", sorted(PACKAGES))
def test_every_public_name_is_documented(page: str, pages: dict[str, HtmlPage]) -> None:
    folder, package, _ = PACKAGES[page]
    names = set(public_names(folder, package))
    if package == "qwen_rerank_plugins":
        assert names | {"__version__"} == set(qwen_rerank_plugins.__all__)
        names -= set(errors.__all__)
    assert names
    assert {f"{package}.{name}" for name in names} <= pages[f"reference/{page}.html"].anchors


def test_a_broken_link_or_anchor_fails_the_build(tmp_path: Path) -> None:
    """The validation of mkdocs.yml, on a site of one page, without hooks."""
    config = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    validation = yaml.safe_load(config.partition("\nvalidation:\n")[2].partition("\nnot_in_nav")[0])
    (tmp_path / "docs").mkdir()
    page = tmp_path / "docs" / "index.md"
    file = tmp_path / "mkdocs.yml"
    file.write_text(
        yaml.safe_dump({"site_name": "x", "theme": "mkdocs", "validation": validation}), encoding="utf-8"
    )
    for text, expected in (
        ("[here](#title)", 0),
        ("[x](nowhere.md)", 1),
        ("[x](#nowhere)", 1),
        ("[x](/nowhere.html)", 1),
    ):
        page.write_text(f"# Title\n\n{text}\n", encoding="utf-8")
        built = build(file, tmp_path / "site")
        assert built.returncode == expected, (text, built.stderr)


def test_the_check_sees_faults(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "b.html").write_text('<h1 id="here">B</h1>', encoding="utf-8")
    (tmp_path / "a.html").write_text(
        '<article>two words</article><a href="b.html#here">1</a><a href="b.html#gone">2</a><a href="c.html">3</a>'
        '<a href="https://example.org/">4</a><script src="//example.org/x.js"></script><img src="none.png">',
        encoding="utf-8",
    )
    assert check([str(tmp_path), "--words"]) == 1
    printed = capsys.readouterr()
    assert printed.out.splitlines()[0].split() == ["2", "a.html"]
    assert printed.err.splitlines() == [
        "error: no such target: a.html: b.html#gone",
        "error: no such target: a.html: c.html",
        "error: no such target: a.html: none.png",
        "error: loaded from another host: a.html: //example.org/x.js",
    ]
    (tmp_path / "a.html").write_text('<a href="b.html#here">1</a>', encoding="utf-8")
    assert check([str(tmp_path)]) == 0


def test_the_script_says_what_it_does_and_refuses_the_rest() -> None:
    """Both without setting up an environment."""
    run = ["bash", "scripts/docs.sh"]
    shown = subprocess.run([*run, "--help"], cwd=ROOT, capture_output=True, check=True, text=True)
    assert "127.0.0.1:8000" in shown.stdout
    refused = subprocess.run([*run, "publish"], cwd=ROOT, capture_output=True, check=False, text=True)
    assert (refused.returncode, refused.stderr) == (2, shown.stdout)
