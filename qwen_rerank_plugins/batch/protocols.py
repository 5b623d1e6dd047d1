"""The interfaces between reading, scoring and writing: `Source`, `Writer`, `OutputRow`. Contains no implementation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

from qwen_rerank_plugins.batch.rows import Chunk, Layout

__all__ = ["OutputRow", "Source", "TextFormat", "Writer"]


class TextFormat(NamedTuple):
    """How the text of a file is decoded and split.

    Attributes:
        encoding: The name of the codec.
        delimiter: The character between cells; None for JSON.
        guessed: The names of the options whose values are guesses.
    """

    encoding: str
    delimiter: str | None = None
    guessed: tuple[str, ...] = ()


class OutputRow(NamedTuple):
    """A row of the output.

    Attributes:
        position: Index of the input row in its chunk, from 0.
        added: Added column → value.
    """

    position: int
    added: dict[str, Any]


class Source(Protocol):
    """An input file, read as chunks of rows."""

    @property
    def layout(self) -> Layout:
        """The columns of the query and the documents."""

    @property
    def columns(self) -> Sequence[str] | None:
        """The columns in order; None if each row has its own columns."""

    @property
    def text_format(self) -> TextFormat | None:
        """The encoding and the delimiter; None if the file is not text."""

    @property
    def num_blank_lines(self) -> int:
        """Blank lines skipped so far."""

    def chunks(self, *, for_scoring: bool) -> Iterator[Chunk]:
        """Read the file from its beginning.

        Args:
            for_scoring: Allows the source to skip columns that scoring does not need.
        """


class Writer(Protocol):
    """An output file that is being written."""

    def write(self, chunk: Chunk, rows: Sequence[OutputRow]) -> None:
        """Append rows of a chunk, each with its added columns."""

    def close(self) -> None:
        """Write buffered rows and close the file."""
