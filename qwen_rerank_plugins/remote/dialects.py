"""One table of request and answer formats, one row per kind of service.

Nothing here opens a connection or validates an answer. The fields follow the vendors' documentation and sources:
Cohere's `/v2/rerank`, Jina's and Voyage's `/v1/rerank`, vLLM's and text-embeddings-inference's `/rerank`, DashScope's
`text-rerank` and `reranks`, llama.cpp's `tools/server`, SGLang's `serving_rerank`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any, Literal
from urllib.parse import urlsplit, urlunsplit

from qwen_rerank_plugins.config import DEFAULT_MODEL
from qwen_rerank_plugins.errors import InputError
from qwen_rerank_plugins.types import TextLimits

__all__ = ["DIALECTS", "Dialect", "Template", "choose_dialect"]

Template = Literal["server", "client"]

_NOTHING: Mapping[str, Any] = MappingProxyType({})
_ENDPOINTS = frozenset({"rerank", "reranks", "reranking", "ranking", "score", "text-rerank", "invocations"})
_VERSION = re.compile(r"v\d+(?:(?:alpha|beta)\d*)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """Request and answer format of a kind of service.

    Attributes:
        name: Its name in the configuration.
        path: Path below the root of the service.
        answer_key: Key of the object that holds the results, or None if the answer itself does.
        results_keys: Keys of the list of results, in order of preference; empty if the answer is the list itself.
        score_key: Key of the score in a result.
        documents_field: Request field of the documents.
        nests_input: Whether query and documents are in `input`, and all other fields but the model in `parameters`.
        constant_fields: Request fields that are always sent.
        top_n_field: Request field of the number of results, where the service's default would cut them.
        truncate_field: Request field that permits truncating long texts.
        model: Whether the model is sent always, only if it is not the default, or never.
        instruction_field: Request field of the instruction, or None.
        limit_fields: Attribute of `TextLimits` → request field.
        returns_log_odds: Whether scores are log-odds rather than probabilities.
        returns_details: Whether results have log-odds, truncation flags and spans, as our own service returns them.
        has_template: Whether the service always applies the model's prompt template.
        takes_blanks: Whether the service scores blank documents. Others may refuse the whole request.
        max_documents: Maximum number of documents in a call, unless the configuration sets one.
        max_bytes: Maximum size of their text in a call, in UTF-8, since services limit the size of a body.
        counts_pairs: Whether `max_bytes` counts the query once per document.
    """

    name: str
    path: str
    answer_key: str | None = None
    results_keys: tuple[str, ...] = ("results",)
    score_key: str = "relevance_score"
    documents_field: str = "documents"
    nests_input: bool = False
    constant_fields: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)
    top_n_field: str | None = None
    truncate_field: str | None = None
    model: Literal["always", "named", "never"] = "always"
    instruction_field: str | None = None
    limit_fields: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    returns_log_odds: bool = False
    returns_details: bool = False
    has_template: bool = False
    takes_blanks: bool = False
    max_documents: int = 1000
    max_bytes: int = 4_000_000
    counts_pairs: bool = False

    def url(self, base_url: str) -> str:
        """Return the URL to post to.

        A `base_url` that ends in the name of an endpoint, such as `rerank` or `reranks`, is used unchanged; one that
        ends in a version, such as `v1`, keeps it. A query, such as `?api-version=1`, is kept.
        """
        parts = urlsplit(base_url)
        path = parts.path.rstrip("/")
        last = _last_segment(base_url)
        if _VERSION.fullmatch(last):
            path = f"{path}/{re.split(r'/v[0-9]+/', self.path)[-1].lstrip('/')}"
        elif last not in _ENDPOINTS:
            path += self.path
        return urlunsplit(parts._replace(path=path))

    def body(
        self,
        query: str,
        documents: Sequence[str],
        *,
        model: str,
        instruction: str | None,
        template: Template,
        limits: TextLimits | None = None,
    ) -> dict[str, Any]:
        """Return the request as plain JSON types.

        Args:
            query: The query; with template "client", the first part of the prompt.
            documents: The documents; with template "client", the second parts.
            model: The configured model.
            instruction: Definition of relevance; must be None if the dialect has no field for it.
            template: Side that applies the prompt. With "client", the service must not truncate, since it would cut
                off the end of the prompt.
            limits: Limits of the texts.

        Raises:
            InputError: The service knows no such limit.
        """
        body: dict[str, Any] = {"query": query, self.documents_field: list(documents), **self.constant_fields}
        if self.model == "always" or (self.model == "named" and model != DEFAULT_MODEL):
            body["model"] = model
        if self.top_n_field is not None:
            body[self.top_n_field] = len(documents)
        if self.truncate_field is not None:
            body[self.truncate_field] = template == "server"
        if instruction is not None and self.instruction_field is not None:
            body[self.instruction_field] = instruction
        body |= self.limits_body(limits)
        if not self.nests_input:
            return body
        texts = {key: body.pop(key) for key in ("query", self.documents_field)}
        return {"model": body.pop("model"), "input": texts, "parameters": body}

    def limits_body(self, limits: TextLimits | None) -> dict[str, int]:
        """Return the request fields of limits. A service that reads no chunks has no field for `max_chunks`.

        Raises:
            InputError: The service knows no such limit.
        """
        given = {} if limits is None else {name: value for name, value in asdict(limits).items() if value}
        for name in given.keys() - self.limit_fields.keys() - {"max_chunks"}:
            raise InputError(
                f"{name} cannot be sent in dialect {self.name!r}; remove it from the request's limits"
            )
        return {self.limit_fields[name]: value for name, value in given.items() if name in self.limit_fields}


def _last_segment(url: str) -> str:
    return urlsplit(url).path.rstrip("/").rpartition("/")[2]


# 30,000 tokens in a call, where the query counts once per document, at about 2.7 bytes per token.
_DASHSCOPE: Mapping[str, Any] = MappingProxyType(
    {
        "top_n_field": "top_n",
        "instruction_field": "instruct",
        "has_template": True,
        "max_documents": 500,
        "max_bytes": 80_000,
        "counts_pairs": True,
    }
)

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
                instruction_field="instruction",
                limit_fields={
                    "max_document_tokens": "max_tokens_per_doc",
                    "max_query_tokens": "max_tokens_per_query",
                    "max_length": "truncate_prompt_tokens",
                    "max_chunks": "max_chunks_per_doc",
                },
                returns_details=True,
                has_template=True,
                takes_blanks=True,
            ),
            Dialect(
                name="cohere",
                path="/v2/rerank",
                top_n_field="top_n",
                limit_fields={"max_document_tokens": "max_tokens_per_doc"},
            ),
            Dialect(
                name="jina",
                path="/v1/rerank",
                top_n_field="top_n",
                constant_fields={"return_documents": False},
            ),
            # No `truncate_prompt_tokens`: it cuts the finished prompt, including the position that is scored.
            Dialect(name="vllm", path="/rerank", model="named", instruction_field="instruction"),
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
            Dialect(
                name="dashscope",
                path="/api/v1/services/rerank/text-rerank/text-rerank",
                answer_key="output",
                nests_input=True,
                constant_fields={"return_documents": False},
                **_DASHSCOPE,
            ),
            # Scores of a Qwen3 GGUF are softmax(yes, no), in both of the server's dialects. Its template is in the file.
            Dialect(name="llamacpp", path="/v1/rerank", model="named", has_template=True),
            Dialect(
                name="sglang",
                path="/v1/rerank",
                results_keys=(),
                score_key="score",
                constant_fields={"return_documents": False},
                model="named",
                instruction_field="instruct",
                has_template=True,
            ),
        )
    }
)
"""Every dialect, by name."""

_DASHSCOPE_COMPATIBLE = Dialect(name="dashscope", path="/compatible-api/v1/reranks", **_DASHSCOPE)


def choose_dialect(name: str, base_url: str) -> Dialect:
    """Return a dialect by its name, in the form that its service understands at an address."""
    is_compatible = _last_segment(base_url) in _ENDPOINTS - {"text-rerank"} or "/compatible-" in base_url
    return _DASHSCOPE_COMPATIBLE if name == "dashscope" and is_compatible else DIALECTS[name]
