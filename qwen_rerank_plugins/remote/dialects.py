"""What each kind of service wants to be asked, and where its answer holds the scores: one table, no code for each.

Nothing here opens a connection or judges an answer. The fields are those of the vendors' documentation and sources:
Cohere's `/v2/rerank`, Jina's and Voyage's `/v1/rerank`, vLLM's and text-embeddings-inference's `/rerank`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal
from urllib.parse import urlsplit

from qwen_rerank_plugins.config import DEFAULT_MODEL

__all__ = ["DIALECTS", "Dialect", "Template"]

Template = Literal["server", "client"]

_NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """A kind of service.

    Attributes:
        name: How the configuration calls it.
        path: What follows the service's root.
        items: Where the answer holds its list, the first that is there; empty when the answer is the list.
        score: The key of an item's score.
        texts: The field of the documents.
        fixed: Fields that are always sent.
        count: The field for how many results to give, where it is safer to say so.
        cut: The field that says whether a text that is too long may be cut.
        model: Whether the model is always named, when it is not the default, or never.
        takes_instruction: The request has a field for an instruction.
        gives_log_odds: Scores are log-odds; else they are probabilities.
        gives_details: Items tell log-odds, cuts and spans as our own service does.
        has_template: The service always applies the model's prompt itself.
        max_documents: Documents in one call, unless the configuration says otherwise.
        max_bytes: Their text in one call, in UTF-8; services limit a body's size.
    """

    name: str
    path: str
    items: tuple[str, ...] = ("results",)
    score: str = "relevance_score"
    texts: str = "documents"
    fixed: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)
    count: str | None = None
    cut: str | None = None
    model: Literal["always", "named", "never"] = "always"
    takes_instruction: bool = False
    gives_log_odds: bool = False
    gives_details: bool = False
    has_template: bool = False
    max_documents: int = 1000
    max_bytes: int = 4_000_000

    def url(self, base_url: str) -> str:
        """The address to post to: the service's root and the path, or an address that ends in the path already."""
        base = base_url.rstrip("/")
        last = urlsplit(base).path.rpartition("/")[2]
        version, _, rest = self.path.strip("/").rpartition("/")
        if last == "rerank":
            return base
        if version and last in {"v1", "v2"}:
            return f"{base}/{rest}"
        return base + self.path

    def body(
        self, query: str, documents: Sequence[str], *, model: str, instruction: str | None, template: Template
    ) -> dict[str, Any]:
        """The request, as plain JSON types.

        Args:
            query: What is searched for; with a template of ours, wrapped in it.
            documents: The texts, likewise.
            model: The configured model.
            instruction: What relevance means; must be None where the dialect has no field for it.
            template: Who applies the model's prompt. With ours, a service must not cut: it would cut the prompt's end.
        """
        body: dict[str, Any] = {"query": query, self.texts: list(documents), **self.fixed}
        if self.model == "always" or (self.model == "named" and model != DEFAULT_MODEL):
            body["model"] = model
        if self.count is not None:
            body[self.count] = len(documents)
        if self.cut is not None:
            body[self.cut] = template == "server"
        if instruction is not None:
            body["instruction"] = instruction
        return body


DIALECTS: Mapping[str, Dialect] = MappingProxyType(
    {
        dialect.name: dialect
        for dialect in (
            Dialect(
                name="qwen",
                path="/rerank",
                items=("pairs", "results"),
                fixed={"return_documents": False, "return_pairs": True},
                model="named",
                takes_instruction=True,
                gives_details=True,
                has_template=True,
            ),
            Dialect(name="cohere", path="/v2/rerank", count="top_n"),
            Dialect(name="jina", path="/v1/rerank", count="top_n", fixed={"return_documents": False}),
            # No `truncate_prompt_tokens`: it cuts the finished prompt, and with it the place that is scored.
            Dialect(name="vllm", path="/rerank", model="named", takes_instruction=True),
            # Raw scores do not saturate; one call is one place in the queue for each text, and 32 the usual limit.
            Dialect(
                name="tei",
                path="/rerank",
                items=(),
                score="score",
                texts="texts",
                fixed={"raw_scores": True, "return_text": False},
                cut="truncate",
                model="never",
                gives_log_odds=True,
                max_documents=32,
                max_bytes=1_000_000,
            ),
            Dialect(
                name="voyage",
                path="/v1/rerank",
                items=("data",),
                fixed={"return_documents": False},
                cut="truncation",
            ),
        )
    }
)
"""Every dialect, by name."""
