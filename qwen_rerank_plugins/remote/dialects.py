"""One table of request and answer formats, one row per kind of service.

Nothing here opens a connection or validates an answer. The fields follow the vendors' documentation and sources:
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
    """Request and answer format of a kind of service.

    Attributes:
        name: Its name in the configuration.
        path: Path below the root of the service.
        results_keys: Keys of the list of results, in order of preference; empty if the answer is the list itself.
        score_key: Key of the score in a result.
        documents_field: Request field of the documents.
        constant_fields: Request fields that are always sent.
        top_n_field: Request field of the number of results, where the service's default would cut them.
        truncate_field: Request field that permits truncating long texts.
        model: Whether the model is sent always, only if it is not the default, or never.
        takes_instruction: Whether the request has a field for an instruction.
        returns_log_odds: Whether scores are log-odds rather than probabilities.
        returns_details: Whether results have log-odds, truncation flags and spans, as our own service returns them.
        has_template: Whether the service always applies the model's prompt template.
        max_documents: Maximum number of documents in a call, unless the configuration sets one.
        max_bytes: Maximum size of their text in a call, in UTF-8, since services limit the size of a body.
    """

    name: str
    path: str
    results_keys: tuple[str, ...] = ("results",)
    score_key: str = "relevance_score"
    documents_field: str = "documents"
    constant_fields: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)
    top_n_field: str | None = None
    truncate_field: str | None = None
    model: Literal["always", "named", "never"] = "always"
    takes_instruction: bool = False
    returns_log_odds: bool = False
    returns_details: bool = False
    has_template: bool = False
    max_documents: int = 1000
    max_bytes: int = 4_000_000

    def url(self, base_url: str) -> str:
        """Return the URL to post to. A `base_url` that already ends in the path is used unchanged."""
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
        """Return the request as plain JSON types.

        Args:
            query: The query; with template "client", the first part of the prompt.
            documents: The documents; with template "client", the second parts.
            model: The configured model.
            instruction: Definition of relevance; must be None if the dialect has no field for it.
            template: Side that applies the prompt. With "client", the service must not truncate, since it would cut
                off the end of the prompt.
        """
        body: dict[str, Any] = {"query": query, self.documents_field: list(documents), **self.constant_fields}
        if self.model == "always" or (self.model == "named" and model != DEFAULT_MODEL):
            body["model"] = model
        if self.top_n_field is not None:
            body[self.top_n_field] = len(documents)
        if self.truncate_field is not None:
            body[self.truncate_field] = template == "server"
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
                results_keys=("pairs", "results"),
                constant_fields={"return_documents": False, "return_pairs": True},
                model="named",
                takes_instruction=True,
                returns_details=True,
                has_template=True,
            ),
            Dialect(name="cohere", path="/v2/rerank", top_n_field="top_n"),
            Dialect(
                name="jina",
                path="/v1/rerank",
                top_n_field="top_n",
                constant_fields={"return_documents": False},
            ),
            # No `truncate_prompt_tokens`: it cuts the finished prompt, including the position that is scored.
            Dialect(name="vllm", path="/rerank", model="named", takes_instruction=True),
            # Raw scores do not saturate. Each text takes one place in the service's queue; 32 is its default limit.
            Dialect(
                name="tei",
                path="/rerank",
                results_keys=(),
                score_key="score",
                documents_field="texts",
                constant_fields={"raw_scores": True, "return_text": False},
                truncate_field="truncate",
                model="never",
                returns_log_odds=True,
                max_documents=32,
                max_bytes=1_000_000,
            ),
            Dialect(
                name="voyage",
                path="/v1/rerank",
                results_keys=("data",),
                constant_fields={"return_documents": False},
                truncate_field="truncation",
            ),
        )
    }
)
"""Every dialect, by name."""
