"""Query, document and instruction to prompts: token ids in shared segments, cut or chunked to the limits.

It knows families and a tokenizer, no model. The document alone is cut when a prompt is too long; the query has a
cap of its own; what follows the document always stands. Lone surrogates become U+FFFD, one for one, so that spans
stay characters of the caller's string.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from qwen_rerank_plugins.core.prompts.chunking import chunk_spans, safe_clip
from qwen_rerank_plugins.core.prompts.families import Piece, PromptFamily
from qwen_rerank_plugins.core.prompts.tokenizer import PromptTokenizer
from qwen_rerank_plugins.core.sequences import Segment, TokenSequence
from qwen_rerank_plugins.errors import InputError, InstructionTooLongError
from qwen_rerank_plugins.types import ScoreRequest, Span

__all__ = ["EncodedPair", "PromptEncoder", "TokenLimits"]

_SURROGATES = re.compile("[\ud800-\udfff]")

CLIP_CHARACTERS_PER_TOKEN = 8
"""A text is clipped to this many characters for each token that it may have before it is tokenised at all."""

CLIP_MARGIN_TOKENS = 16
"""A clip inside a word changes the last tokens before it; that many more than are needed must be there."""


@dataclass(frozen=True, slots=True)
class TokenLimits:
    """How long things may be, in tokens.

    Attributes:
        max_length: The whole prompt.
        max_query_tokens: The query alone.
        long_documents: Cut a long document, or read it in overlapping chunks and let the best one count.
        chunk_tokens: A document longer than this is read in chunks of at most this length.
        chunk_overlap: What neighbouring chunks share, about.
    """

    max_length: int = 8192
    max_query_tokens: int = 2048
    long_documents: Literal["truncate", "chunk"] = "truncate"
    chunk_tokens: int = 512
    chunk_overlap: int = 64


@dataclass(frozen=True, slots=True)
class EncodedPair:
    """A query-document pair as one prompt, or as one a chunk.

    Attributes:
        prompts: At least one.
        spans: For each prompt its place in the document, in characters; None where the document is whole or cut.
        truncated: The document was cut.
        query_truncated: The query was cut.
    """

    prompts: tuple[TokenSequence, ...]
    spans: tuple[Span | None, ...]
    truncated: bool
    query_truncated: bool

    @property
    def num_tokens(self) -> int:
        """Tokens of all prompts as the plain recipe would count them."""
        return sum(prompt.num_tokens for prompt in self.prompts)


@dataclass(frozen=True, slots=True)
class _Head:
    """What the pairs of one query and instruction have in common."""

    segments: tuple[Segment, Segment]
    values: Mapping[str, str]
    query_truncated: bool
    budget: int


@dataclass(slots=True)
class _Tail:
    """A text to be put into the document's place, on its way to ids."""

    head: _Head
    text: str
    span: Span | None = None
    ids: Segment = ()
    was_cut: bool = False


class PromptEncoder:
    """Turns pairs into prompts by a family's recipe.

    Safe to call from several threads. For clean text that fits, the ids are those of the published recipe.

    Args:
        tokenizer: The checkpoint's tokenizer.
        family: The prompt family.
        limits: How long things may be.
    """

    def __init__(self, tokenizer: PromptTokenizer, family: PromptFamily, limits: TokenLimits) -> None:
        self.family = family
        self.limits = limits
        self._tokenizer = tokenizer
        self._control = {text: tokenizer.control_ids(text) for text in family.control_texts}
        self._document = next(piece for piece in family.document if "document" in piece.placeholders)
        self._kept = sum(len(self._fixed_ids(piece)) for piece in family.document if not piece.is_cut)

    def encode(self, requests: Sequence[ScoreRequest]) -> list[EncodedPair]:
        """Prompts of all pairs, in input order.

        Raises:
            InstructionTooLongError: An instruction leaves no room for query and document.
            InputError: The family takes no instruction, but a request has one.
        """
        heads = self._heads(requests)
        tails = [
            _Tail(heads[request.query, request.instruction], _clean(request.document)) for request in requests
        ]
        if self.family.strip:
            for tail in tails:
                tail.text = tail.text.strip()
        self._tokenise(tails)
        if self.limits.long_documents == "truncate":
            return [self._pair([tail]) for tail in tails]
        return self._chunked(tails)

    def _heads(self, requests: Sequence[ScoreRequest]) -> dict[tuple[str, str | None], _Head]:
        heads: dict[tuple[str, str | None], _Head] = {}
        for request in requests:
            key = (request.query, request.instruction)
            if key not in heads:
                heads[key] = self._head(*key)
        return heads

    def _head(self, query: str, instruction: str | None) -> _Head:
        if instruction is not None and not self.family.takes_instruction:
            length = len(instruction)  # not the text itself: messages of input errors reach logs and clients
            raise InputError(
                f"the prompt family {self.family.name!r} takes no instruction, got one of {length} characters"
            )
        query = _clean(query).strip() if self.family.strip else _clean(query)
        query, query_truncated = self._capped(query)
        values = {"query": query}
        chosen = self.family.default_instruction if instruction is None else _clean(instruction)
        if chosen is not None:
            values["instruction"] = chosen
        root, head = self._run(self.family.root, values), self._run(self.family.query, values)
        budget = self.limits.max_length - len(root) - len(head) - self._kept
        if budget < 1:
            raise InstructionTooLongError(
                f"instruction, query and template take {len(root) + len(head) + self._kept} tokens (the instruction "
                f"and what stands before it {len(root)}) and leave no room for a document; "
                f"max_length is {self.limits.max_length}"
            )
        return _Head((root, head), values, query_truncated, budget)

    def _capped(self, query: str) -> tuple[str, bool]:
        """The query, cut to its cap."""
        cap = self.limits.max_query_tokens
        if len(query.encode("utf-8")) <= cap:  # a token has at least one byte
            return query, False
        limit = CLIP_CHARACTERS_PER_TOKEN
        while True:
            clipped = safe_clip(query, limit * (cap + CLIP_MARGIN_TOKENS))
            offsets = self._tokenizer.token_offsets(clipped)
            if len(clipped) == len(query) or len(offsets) > cap + CLIP_MARGIN_TOKENS:
                break
            limit *= 4
        return (query[: offsets[cap]], True) if len(offsets) > cap else (query, False)

    def _run(self, pieces: Sequence[Piece], values: Mapping[str, str]) -> Segment:
        """Ids of the pieces of a shared segment, one behind the other."""
        return tuple(number for piece in pieces for number in self._piece_ids(piece, values))

    def _piece_ids(self, piece: Piece, values: Mapping[str, str]) -> Segment:
        if piece.optional and not all(name in values for name in piece.placeholders):
            return ()
        if piece.placeholders:
            return self._tokenizer.encode([piece.render(values)])[0]
        return self._fixed_ids(piece)

    def _fixed_ids(self, piece: Piece) -> Segment:
        return self._control[piece.text] if piece.control else self._tokenizer.encode([piece.text])[0]

    def _tokenise(self, tails: Sequence[_Tail]) -> None:
        """Give every tail its ids: all texts in one batch, clipped ones again if the clip was too short."""
        limit = CLIP_CHARACTERS_PER_TOKEN
        todo = list(tails)
        while todo:
            clipped = [safe_clip(t.text, limit * (t.head.budget + CLIP_MARGIN_TOKENS)) for t in todo]
            rendered = [
                self._document.render({**t.head.values, "document": c})
                for t, c in zip(todo, clipped, strict=True)
            ]
            unique = list(dict.fromkeys(rendered))
            ids = dict(zip(unique, self._tokenizer.encode(unique), strict=True))
            again = []
            for tail, clip, text in zip(todo, clipped, rendered, strict=True):
                tail.ids = ids[text]
                tail.was_cut = len(clip) < len(tail.text)
                if tail.was_cut and len(tail.ids) < tail.head.budget + CLIP_MARGIN_TOKENS:
                    again.append(tail)
            todo, limit = again, limit * 4

    def _pair(self, tails: Sequence[_Tail]) -> EncodedPair:
        prompts, cuts = zip(*(self._finish(tail) for tail in tails), strict=True)
        spans = tuple(tail.span for tail in tails)
        return EncodedPair(prompts, spans, any(cuts), tails[0].head.query_truncated)

    def _finish(self, tail: _Tail) -> tuple[TokenSequence, bool]:
        """The prompt of a tail, cut to the limit, and whether the document lost something."""
        room = tail.head.budget
        ids: list[int] = []
        for piece in self.family.document:
            piece_ids = tail.ids if piece is self._document else self._fixed_ids(piece)
            if piece.is_cut:
                piece_ids = piece_ids[:room]
                room -= len(piece_ids)
            ids.extend(piece_ids)
        was_cut = tail.was_cut or len(tail.ids) > tail.head.budget
        return TokenSequence((*tail.head.segments, tuple(ids))), was_cut

    def _chunked(self, tails: Sequence[_Tail]) -> list[EncodedPair]:
        """Prompts with long documents read in chunks, all chunks tokenised in one batch."""
        parts = [self._parts(tail) for tail in tails]
        self._tokenise([part for group in parts for part in group if part.span is not None])
        return [self._pair(group) for group in parts]

    def _parts(self, tail: _Tail) -> list[_Tail]:
        limit = min(self.limits.chunk_tokens, tail.head.budget)
        if len(tail.ids) <= limit and not tail.was_cut:
            return [tail]
        spans = chunk_spans(tail.text, self._tokenizer, limit, min(self.limits.chunk_overlap, limit // 2))
        return [_Tail(tail.head, tail.text[start:end], (start, end)) for start, end in spans] or [tail]


def _clean(text: str) -> str:
    """The text without lone surrogates, which have no bytes; of the same length."""
    return _SURROGATES.sub("\ufffd", text)
