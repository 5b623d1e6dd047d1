"""Query, document and instruction to prompts, truncated or chunked to the limits.

This module knows families and a tokenizer, and no model. A prompt is a path of shared token segments. When it
is too long, only the document is truncated; the query has its own limit; the template's suffix always stands.
Texts are cleaned first; spans are character offsets of the caller's string all the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from qwen_rerank_plugins.core.prompts.chunking import chunk_spans, clip_at_token_boundary
from qwen_rerank_plugins.core.prompts.cleaning import TextCleaner, Unwrap
from qwen_rerank_plugins.core.prompts.families import Piece, PromptFamily
from qwen_rerank_plugins.core.prompts.tokenizer import PromptTokenizer
from qwen_rerank_plugins.core.sequences import Segment, TokenIds
from qwen_rerank_plugins.errors import InputError, InstructionTooLongError
from qwen_rerank_plugins.types import ScoreRequest, Span, TextLimits

__all__ = ["EncodedPair", "PromptEncoder", "TokenLimits"]

CLIP_CHARACTERS_PER_TOKEN = 8
"""Before tokenisation a text is clipped to this many characters per token that it may have."""

_NO_LIMITS = TextLimits()

CLIP_MARGIN_TOKENS = 16
"""Tokens beyond the limit that a clipped text must have: a clip inside a word changes the last ones."""


@dataclass(frozen=True, slots=True)
class TokenLimits:
    """Limits of all pairs in tokens.

    Attributes:
        max_length: The whole prompt.
        max_query_tokens: The query alone.
        long_documents: Truncate a long document, or read it in overlapping chunks and use the best one.
        chunk_tokens: Maximum tokens per chunk; longer documents are read in chunks.
        chunk_overlap: Approximate number of tokens that neighbouring chunks share.
    """

    max_length: int = 8192
    max_query_tokens: int = 2048
    long_documents: Literal["truncate", "chunk"] = "truncate"
    chunk_tokens: int = 512
    chunk_overlap: int = 64


@dataclass(frozen=True, slots=True)
class EncodedPair:
    """A query-document pair as one prompt, or as one per chunk.

    Attributes:
        prompts: At least one, each as its last segment.
        spans: For each prompt its span of the document, in characters; None unless the document is read in
            chunks.
        truncated: Whether the document was truncated.
        query_truncated: Whether the query was truncated.
        warnings: What was wrong with the texts, each warning once.
    """

    prompts: tuple[Segment, ...]
    spans: tuple[Span | None, ...]
    truncated: bool
    query_truncated: bool
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _QueryPrefix:
    """What the pairs of one query, instruction and limits share; `budget` is the maximum tokens of a document."""

    head: Segment | None
    values: Mapping[str, str]
    query_truncated: bool
    budget: int
    max_chunks: int | None
    warnings: tuple[str, ...]


@dataclass(slots=True)
class _DocumentTail:
    """A text in the document's place, where the document begins in the caller's string, and the text's token ids.

    `is_cut`: the text is not the whole document. `truncated`: not the whole text was tokenised.
    """

    prefix: _QueryPrefix
    text: str
    offset: int
    is_cut: bool
    warnings: tuple[str, ...]
    span: Span | None = None
    ids: TokenIds = ()
    truncated: bool = False


class PromptEncoder:
    """Encodes pairs as prompts of a family.

    Thread-safe. For clean text that fits, the ids are those of the published recipe.

    Args:
        tokenizer: The checkpoint's tokenizer.
        family: The prompt family.
        limits: Limits in tokens.
        unwrap: What happens to a text that already has a prompt template around it.
    """

    def __init__(
        self,
        tokenizer: PromptTokenizer,
        family: PromptFamily,
        limits: TokenLimits,
        unwrap: Unwrap = "warn",
    ) -> None:
        self.family = family
        self.limits = limits
        self._tokenizer = tokenizer
        self._cleaner = TextCleaner(family, unwrap)
        self._document_piece = next(piece for piece in family.document if "document" in piece.placeholders)
        self._fixed_ids = {  # of the pieces without placeholders
            piece: tokenizer.control_ids(piece.text) if piece.control else tokenizer.encode([piece.text])[0]
            for piece in family.pieces
            if not piece.placeholders
        }
        self._num_fixed_tokens = sum(
            len(self._fixed_ids[piece]) for piece in family.document if not piece.is_cut
        )

    def encode(self, requests: Sequence[ScoreRequest]) -> list[EncodedPair]:
        """Return the prompts of all pairs, in input order.

        Raises:
            InstructionTooLongError: Instruction, query and template leave no room for a document.
            InputError: A request has an instruction, but the family takes none.
        """
        prefixes: dict[tuple[str, str | None, TextLimits | None], _QueryPrefix] = {}
        tails = []
        for request in requests:
            key = (request.query, request.instruction, request.limits)
            if key not in prefixes:
                prefixes[key] = self._prefix(request.query, request.instruction, request.limits or _NO_LIMITS)
            document = self._cleaner.clean(request.document, "document")
            warnings = tuple(dict.fromkeys(prefixes[key].warnings + document.warnings))
            text, is_cut = document.text, False
            if request.limits is not None and request.limits.max_document_tokens is not None:
                text, is_cut = self._truncate(text, request.limits.max_document_tokens)
            tails.append(_DocumentTail(prefixes[key], text, document.offset, is_cut, warnings))
        self._tokenize_tails(tails)
        if self.limits.long_documents == "truncate":
            return [self._pair([tail]) for tail in tails]
        return self._encode_chunks(tails)

    def _prefix(self, query: str, instruction: str | None, limits: TextLimits) -> _QueryPrefix:
        if instruction is not None and not self.family.takes_instruction:
            length = len(instruction)  # the text stays out of the message, which reaches logs and clients
            raise InputError(
                f"the prompt family {self.family.name!r} takes no instruction, but one of {length} characters "
                f"was given; leave it out"
            )
        cleaned = self._cleaner.clean(query, "query")
        warnings = cleaned.warnings
        max_tokens = self.limits.max_query_tokens
        query, query_truncated = self._truncate(
            cleaned.text, min(max_tokens, limits.max_query_tokens or max_tokens)
        )
        values = {"query": query}
        choices = (cleaned.instruction, instruction, self.family.default_instruction)
        instruction = next((choice for choice in choices if choice is not None), None)
        if instruction is not None:
            cleaned = self._cleaner.clean(instruction, "instruction")
            values["instruction"] = cleaned.text
            warnings += cleaned.warnings
        root = self._segment_ids(self.family.root, values)
        prefix = self._segment_ids(self.family.query, values)
        max_length = min(self.limits.max_length, limits.max_length or self.limits.max_length)
        budget = max_length - len(root) - len(prefix) - self._num_fixed_tokens
        if budget < 1:
            num_tokens = len(root) + len(prefix) + self._num_fixed_tokens
            raise InstructionTooLongError(
                f"instruction, query and template take {num_tokens} tokens (the instruction and the text before it "
                f"{len(root)}) and leave no room for a document; max_length is {max_length}. Shorten the "
                f"instruction or raise max_length"
            )
        head = Segment.after(None, root, prefix) if root or prefix else None
        return _QueryPrefix(head, values, query_truncated, budget, limits.max_chunks, warnings)

    def _truncate(self, text: str, max_tokens: int) -> tuple[str, bool]:
        """Return a text, truncated to a number of tokens, and whether it was truncated."""
        if len(text.encode("utf-8")) <= max_tokens:  # a token has at least one byte
            return text, False
        limit = CLIP_CHARACTERS_PER_TOKEN
        while True:
            clipped = clip_at_token_boundary(text, limit * (max_tokens + CLIP_MARGIN_TOKENS))
            offsets = self._tokenizer.token_offsets(clipped)
            if len(clipped) == len(text) or len(offsets) > max_tokens + CLIP_MARGIN_TOKENS:
                break
            limit *= 4
        return (text[: offsets[max_tokens]], True) if len(offsets) > max_tokens else (text, False)

    def _segment_ids(self, pieces: Sequence[Piece], values: Mapping[str, str]) -> TokenIds:
        """Return the concatenated ids of the pieces of a shared segment."""
        ids: list[int] = []
        for piece in pieces:
            if piece in self._fixed_ids:
                ids += self._fixed_ids[piece]
            elif not piece.optional or all(name in values for name in piece.placeholders):
                ids += self._tokenizer.encode([piece.render(values)])[0]
        return tuple(ids)

    def _tokenize_tails(self, tails: Sequence[_DocumentTail]) -> None:
        """Tokenise all texts in one batch, and again those whose clip was too short."""
        limit = CLIP_CHARACTERS_PER_TOKEN
        pending = list(tails)
        while pending:
            clipped = [
                clip_at_token_boundary(t.text, limit * (t.prefix.budget + CLIP_MARGIN_TOKENS))
                for t in pending
            ]
            rendered = [
                self._document_piece.render({**t.prefix.values, "document": c})
                for t, c in zip(pending, clipped, strict=True)
            ]
            unique = list(dict.fromkeys(rendered))
            ids = dict(zip(unique, self._tokenizer.encode(unique), strict=True))
            retry = []
            for tail, clip, text in zip(pending, clipped, rendered, strict=True):
                tail.ids = ids[text]
                tail.truncated = len(clip) < len(tail.text)
                if tail.truncated and len(tail.ids) < tail.prefix.budget + CLIP_MARGIN_TOKENS:
                    retry.append(tail)
            pending, limit = retry, limit * 4

    def _pair(self, tails: Sequence[_DocumentTail]) -> EncodedPair:
        """Return the prompts of a pair, one per tail, each cut to the limit."""
        prompts = []
        for tail in tails:
            budget, ids = tail.prefix.budget, list[int]()
            for piece in self.family.document:
                piece_ids = tail.ids if piece is self._document_piece else self._fixed_ids[piece]
                if piece.is_cut:
                    piece_ids = piece_ids[:budget]
                    budget -= len(piece_ids)
                ids += piece_ids
            prompts.append(Segment.after(tail.prefix.head, tuple(ids)))
        return EncodedPair(
            prompts=tuple(prompts),
            spans=tuple(tail.span for tail in tails),
            truncated=any(t.is_cut or t.truncated or len(t.ids) > t.prefix.budget for t in tails),
            query_truncated=tails[0].prefix.query_truncated,
            warnings=tails[0].warnings,
        )

    def _encode_chunks(self, tails: Sequence[_DocumentTail]) -> list[EncodedPair]:
        """Return prompts with long documents read in chunks, all chunks tokenised in one batch."""
        parts = [self._split_into_chunks(tail) for tail in tails]
        self._tokenize_tails([part for group in parts for part in group if part.span is not None])
        return [self._pair(group) for group in parts]

    def _split_into_chunks(self, tail: _DocumentTail) -> list[_DocumentTail]:
        limit = min(self.limits.chunk_tokens, tail.prefix.budget)
        if len(tail.ids) <= limit and not tail.truncated:
            return [tail]
        spans = chunk_spans(tail.text, self._tokenizer, limit, min(self.limits.chunk_overlap, limit // 2))
        kept = spans[: tail.prefix.max_chunks]
        is_cut = tail.is_cut or len(kept) < len(spans)
        return [
            replace(
                tail, text=tail.text[start:end], span=(start + tail.offset, end + tail.offset), is_cut=is_cut
            )
            for start, end in kept
        ] or [tail]
