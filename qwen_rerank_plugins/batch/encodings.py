"""Detect the encoding of a text file: by a byte order mark, as UTF-8, or as a guess. Parses no rows."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from pathlib import Path

from qwen_rerank_plugins.batch.streams import open_unpacked, read_errors_as_input_errors
from qwen_rerank_plugins.errors import InputError

__all__ = ["CANDIDATES", "EncodingError", "NotTextError", "detect_encoding"]

SAMPLE_BYTES = 1 << 16
MIN_CONFIDENCE = 0.8
"""A guess needs at least this share of plausible text: 1 minus charset-normalizer's mess ratio."""

_TIE = 0.1  # candidates whose confidence differs by less are distinguished by their common characters
_MIN_COMMON = 0.9
_MIN_UTF8 = 0.8  # of the characters beyond ASCII: the others are damage, not another encoding
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
    (b"\x84\x31\x95\x33", "gb18030"),
)
CANDIDATES = {
    "gb18030": "gb2312",
    "cp1252": "cp1252",
    "big5": "big5",
    "cp932": "shift_jis",
    "cp949": "euc_kr",
    "cp1251": "cp1251",
}
"""What spreadsheets write by locale, in order of preference, each with the codec of its common characters."""

_BINARY = {b"PK\x03\x04": "a workbook or an archive", b"\xd0\xcf\x11\xe0": "a workbook", b"PAR1": "Parquet"}


class NotTextError(InputError):
    """A file is a workbook, a picture or something else that is not text."""


class EncodingError(InputError):
    """The encoding of a file cannot be detected.

    Attributes:
        choices: The plausible encodings.
    """

    def __init__(self, message: str, choices: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.choices = choices


def detect_encoding(path: Path) -> tuple[str, bool]:
    """Return the codec of a text file, and whether it is a guess.

    The first 64 KiB decide. If they are ASCII, the first 64 KiB that are not decide, wherever they are in the file.

    Raises:
        NotTextError: The file is not text.
        EncodingError: No encoding is plausible enough, or several are.
        InputError: The file cannot be read.
    """
    sample = _sample(path)
    kind = next((kind for magic, kind in _BINARY.items() if sample.startswith(magic)), None)
    if kind is not None:
        raise NotTextError(f"{path} is {kind}, not text; save it as CSV or JSON Lines")
    marked = next((name for mark, name in _MARKS if sample.startswith(mark)), None)
    if marked is not None:
        return marked, False
    if b"\0" in sample and (utf16 := _detect_utf16(sample)):
        return utf16, True
    if _is_utf8(sample):
        return "utf-8", False
    return _guess(path, b"\n".join(line for line in sample.split(b"\n") if not line.isascii())), True


def _sample(path: Path) -> bytes:
    with read_errors_as_input_errors(path), path.open("rb") as raw:
        stream = open_unpacked(raw)
        blocks: Iterator[bytes] = iter(lambda: stream.read(SAMPLE_BYTES), b"")
        sample = next(blocks, b"")
        if sample.isascii() and b"\0" not in sample:
            sample += next((block for block in blocks if not block.isascii()), b"")
        return sample if not stream.peek(1) else _cut(sample)


def _cut(sample: bytes) -> bytes:
    """Cut behind the last byte that no multi-byte character of a candidate contains."""
    end = max(sample.rfind(byte) for byte in (b"\n", b" ", b",", b'"', b"\t")) + 1
    return sample[: end or None]


def _detect_utf16(sample: bytes) -> str | None:
    """Detect UTF-16 without a mark: the zero bytes of its ASCII characters are all in one half of the units."""
    even, odd = sample[::2].count(0), sample[1::2].count(0)
    # UTF-8 may contain a few zeros, UTF-16 of Chinese has them only in its line ends and delimiters.
    if min(even, odd) > max(even, odd) // 20 or (_is_utf8(sample) and 5 * (even + odd) < len(sample)):
        return None
    encoding = "utf-16-le" if odd > even else "utf-16-be"
    text = codecs.getincrementaldecoder(encoding)("replace").decode(sample)
    return None if "\ufffd" in text else encoding


def _is_utf8(sample: bytes) -> bool:
    text = codecs.getincrementaldecoder("utf-8")("surrogateescape").decode(sample)
    num_bad = sum("\udc80" <= char <= "\udcff" for char in text)
    return num_bad <= (1 - _MIN_UTF8) * sum(not char.isascii() for char in text)


def _guess(path: Path, sample: bytes) -> str:
    from charset_normalizer import from_bytes

    # All of these decode the whole sample: charset-normalizer looks at parts only above 10 MB.
    found = from_bytes(sample, cp_isolation=list(CANDIDATES), threshold=1 - MIN_CONFIDENCE)
    confidence = {match.encoding: 1 - match.chaos for match in found}
    best = max(confidence.values(), default=0.0)
    near = [name for name in CANDIDATES if name in confidence and confidence[name] > best - _TIE]
    common = [name for name in near if _common_share(sample, name) >= _MIN_COMMON]
    if len(near) == 1 or common:
        return (common or near)[0]
    known = f"it may be {' or '.join(near)}" if near else "no encoding is plausible"
    raise EncodingError(f"encoding of {path} is not known: {known}; name it with --encoding", tuple(near))


def _common_share(sample: bytes, name: str) -> float:
    """Return the share of characters beyond ASCII that are common ones."""

    def count(codec: str) -> int:
        return sum(not char.isascii() for char in sample.decode(codec, "ignore"))

    return count(CANDIDATES[name]) / max(1, count(name))
