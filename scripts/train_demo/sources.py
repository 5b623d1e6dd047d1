"""Freely licensed text from Debian packages, as documents of sentences.

Needs Debian with ``apt-get`` and ``dpkg-deb``. The package index and the packages go to a private folder; nothing is
installed.
"""

from __future__ import annotations

import gzip
import html
import json
import logging
import re
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

logger = logging.getLogger(__name__)

PACKAGES: Final[dict[str, str]] = {
    "libreoffice-help-zh-cn": "MPL-2.0",
    "manpages-zh": "GFDL-1.2+ and others, by page",
    "debian-handbook": "GPL-2+ or CC-BY-SA-3.0",
    "debian-reference-zh-cn": "GPL-2+",
    "debian-faq-zh-cn": "its own copyleft notice",
    "debian-edu-doc-zh-cn": "GPL-2+",
    "gnome-user-docs": "CC-BY-SA-3.0",
    "linux-doc-6.1": "GPL-2",
    "kicad-doc-zh": "GPL-3+",
    "dict-gcide": "GPL-2+",
}
"""Package → licence. The package descriptions of the index (Translation-en, Translation-zh_CN) are used as well."""

_CJK: Final = re.compile(r"[\u3400-\u9fff]")
_SENTENCE_END: Final = re.compile(r"(?<=[.!?;])\s+|(?<=[。！？；])\s*")
_MIN_CHARS: Final[dict[str, int]] = {"en": 30, "zh": 10}
_MAX_CHARS: Final[dict[str, int]] = {"en": 400, "zh": 160}


@dataclass(frozen=True, slots=True)
class Document:
    """A text with its title, split into sentences.

    Attributes:
        language: ``en`` or ``zh``.
        title: A one-line title or synopsis; may be empty.
        sentences: The body's sentences in their order.
    """

    language: str
    title: str
    sentences: tuple[str, ...]


def cjk_share(text: str) -> float:
    """Return the fraction of Chinese characters."""
    return len(_CJK.findall(text)) / max(1, len(text))


def split_sentences(text: str, language: str) -> tuple[str, ...]:
    """Split a text into sentences, without those that are too short or too long."""
    low, high = _MIN_CHARS[language], _MAX_CHARS[language]
    parts = (re.sub(r"\s+", " ", part).strip() for part in _SENTENCE_END.split(text))
    return tuple(part for part in parts if low <= len(part) <= high)


def load_documents(work: Path) -> list[Document]:
    """Return the corpus of ``work``; the first call downloads it and writes ``corpus.jsonl``."""
    corpus = work / "corpus.jsonl"
    if not corpus.exists():
        documents = _without_duplicates(_read_sources(work))
        lines = (json.dumps(asdict(document), ensure_ascii=False) for document in documents)
        corpus.write_text("\n".join(lines) + "\n", encoding="utf-8")
    rows = (json.loads(line) for line in corpus.read_text(encoding="utf-8").splitlines())
    return [Document(row["language"], row["title"], tuple(row["sentences"])) for row in rows]


def _read_sources(work: Path) -> Iterator[Document]:
    fetch = _AptFetcher(work)
    fetch.update()
    for text in fetch.translations():
        yield from _descriptions(text)
    for package in PACKAGES:
        root = fetch.unpack(package)
        if root is not None:
            yield from _package_documents(package, root)
    fetch.record()


def _without_duplicates(documents: Iterable[Document]) -> Iterator[Document]:
    seen: set[tuple[str, ...]] = set()
    for document in documents:
        if document.sentences and document.sentences not in seen:
            seen.add(document.sentences)
            yield document


class _AptFetcher:
    """Runs apt with its lists and downloads in the work folder; the state of the system does not change."""

    def __init__(self, work: Path) -> None:
        self._work = work
        self._options = [
            f"-oDir::State::lists={work / 'apt' / 'lists'}",
            f"-oDir::Cache={work / 'apt' / 'cache'}",
            "-oAcquire::Languages=en,zh_CN",  # one string: it overrides the "none" list of container images
        ]
        self._versions: dict[str, str] = {}

    def _apt(self, *arguments: str, cwd: Path | None = None) -> str:
        command = ["apt-get", *self._options, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, cwd=cwd).stdout

    def update(self) -> None:
        for part in ("lists/partial", "cache/archives/partial"):
            (self._work / "apt" / part).mkdir(parents=True, exist_ok=True)
        self._apt("update", "-qq")

    def translations(self) -> Iterator[str]:
        """Yield the text of every Translation-en and Translation-zh_CN file of the index."""
        found = self._apt("indextargets", "--format", "$(FILENAME)", "Created-By: Translations")
        for name in found.split():
            command = ["/usr/lib/apt/apt-helper", "cat-file", name]
            logger.info("reading %s", Path(name).name.rpartition("_")[2])
            yield subprocess.run(command, check=True, capture_output=True).stdout.decode("utf-8", "ignore")

    def unpack(self, package: str) -> Path | None:
        """Download and unpack a package; return its folder, or None if this Debian release does not contain it."""
        root = self._work / "packages" / package
        root.mkdir(parents=True, exist_ok=True)
        try:
            self._apt("download", "-qq", package, cwd=root)
        except subprocess.CalledProcessError:
            logger.warning("package %r is not in the package index and is skipped", package)
            return None
        archive = next(root.glob("*.deb"))
        self._versions[package] = archive.name.split("_")[1].replace("%3a", ":")
        subprocess.run(["dpkg-deb", "-x", str(archive), str(root / "files")], check=True)
        return root / "files"

    def record(self) -> None:
        rows = {
            name: {"version": version, "licence": PACKAGES[name]} for name, version in self._versions.items()
        }
        (self._work / "sources.json").write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


def _package_documents(package: str, root: Path) -> Iterator[Document]:
    for path in sorted(root.rglob("*")):
        name = path.as_posix().lower()
        if not path.is_file() or path.is_symlink():
            continue
        if package == "manpages-zh" and "/zh_cn/" in name and name.endswith(".gz"):
            yield from _manual_page(_gunzip(path))
        elif package == "dict-gcide" and name.endswith(".dict.dz"):
            yield from _dictionary(_gunzip(path))
        elif package != "manpages-zh" and name.endswith((".html", ".page")) and _wanted_page(package, name):
            yield from _web_page(path.read_text(encoding="utf-8", errors="ignore"))


def _wanted_page(package: str, name: str) -> bool:
    if "zh-cn" in name or "zh_cn" in name or ".zh" in name or package == "kicad-doc-zh":
        return True
    return (package == "debian-handbook" and "en-us" in name) or (
        package == "gnome-user-docs" and "/c/" in name
    )


def _gunzip(path: Path) -> str:
    return gzip.decompress(path.read_bytes()).decode("utf-8", "ignore")


def _descriptions(text: str) -> Iterator[Document]:
    """Stanzas of a Translation file: a synopsis line, then the long description."""
    for stanza in text.split("\n\n"):
        found = re.search(r"^Description-(en|zh_CN): (.*)\n((?: .*\n?)*)", stanza, re.MULTILINE)
        if found:
            language = found.group(1)[:2]
            paragraphs = re.split(r"^ \.\s*$", found.group(3), flags=re.MULTILINE)
            yield _document(language, found.group(2), paragraphs)


def _web_page(text: str) -> Iterator[Document]:
    """The paragraphs of an HTML or Mallard page in its main language, ten at a time under its title."""
    title = re.search(r"<title[^>]*>(.*?)</title>", text, re.DOTALL)
    paragraphs = [_plain(part) for part in re.findall(r"<p(?:\s[^>]*)?>(.*?)</p>", text, re.DOTALL)]
    language = "zh" if cjk_share("".join(paragraphs)) > 0.3 else "en"
    paragraphs = [part for part in paragraphs if (cjk_share(part) > 0.3) == (language == "zh")]
    for start in range(0, len(paragraphs), 10):
        yield _document(language, _plain(title.group(1)) if title else "", paragraphs[start : start + 10])


def _plain(markup: str) -> str:
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]*>", "", markup))).strip()


def _manual_page(text: str) -> Iterator[Document]:
    synopsis = re.search(r"^(\S+ \\?-+ .*[\u4e00-\u9fff].*)$", text, re.MULTILINE)
    text = re.sub(r"^\.\\\".*$|\\f.|\\&|\\,|\\/", "", text, flags=re.MULTILINE).replace("\\-", "-")
    paragraphs = [re.sub(r"^\.\w+ ?", "", part) for part in re.split(r"\n\s*\n|\n(?=\.)", text)]
    paragraphs = [part for part in paragraphs if cjk_share(part) > 0.3]
    title = synopsis.group(1).replace("\\-", "-") if synopsis else ""
    for start in range(0, len(paragraphs), 12):
        yield _document("zh", title if start == 0 else "", paragraphs[start : start + 12])


def _dictionary(text: str) -> Iterator[Document]:
    """Entries of a dictd dictionary; several are joined, because one is shorter than a passage."""
    text = re.sub(r"\[(?:1913 Webster|PJC|WordNet[^\]]*|Obs\.|Century[^\]]*)\]|--[A-Z]\w+\.", " ", text)
    entries = [
        re.sub(r"^.*?\[[^\]]*\]|\\[^\\]*\\", "", part, count=2) for part in re.split(r"\n\n(?=\S)", text)
    ]
    for start in range(0, len(entries), 3):
        yield _document("en", "", [re.sub(r"[{}]", "", entry) for entry in entries[start : start + 3]])


def _document(language: str, title: str, paragraphs: Iterable[str]) -> Document:
    sentences = [sentence for part in paragraphs for sentence in split_sentences(part, language)]
    return Document(language, title.strip(), tuple(dict.fromkeys(sentences)))
