"""From LlamaIndex's nodes to the texts that are scored, and from a ranking back to nodes.

Knows no settings, no events and no scorer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

from llama_index.core.schema import BaseNode, MetadataMode, NodeWithScore

from qwen_rerank_plugins import RankedDocument, RelevantSpan, RerankResult, Span
from qwen_rerank_plugins.adapters import Candidates, SpanParameters, collect_documents, render_metadata

__all__ = ["RerankedNode", "render_nodes", "reranked_nodes"]


class RerankedNode(NodeWithScore):
    """A node with its new score, and what the reranker reports about it.

    `node` is the object that was passed in, or a copy with a shorter text if the postprocessor compresses. The object's text,
    metadata and hash stay as they were, so that nothing of this reaches a prompt or an embedding in any `MetadataMode`. `score` is the probability in [0, 1] that the node is
    relevant; if nothing was scored (see `rerank_status`), it is the score that the node came with.

    Attributes:
        first_stage_score: The node's score of the first stage, or None.
        rerank_log_odds: The logit of `score`; None if the service does not report it.
        rerank_calibrated: Whether `score` is calibrated; None without a calibration.
        rerank_truncated: The text was cut to fit.
        rerank_query_truncated: The query was cut to fit.
        rerank_warnings: Sentences that say if a text was repaired, or has a prompt template around it.
        rerank_passage: The best passage of a text that was read in chunks, else None.
        rerank_passage_span: The passage's start and end (exclusive), in characters of the node's own content; None
            if it lies in the metadata.
        rerank_spans: The relevant spans of the node's own content, best first, if they were requested.
        rerank_original_text: The node's whole content, if `node` has a shorter one; all offsets refer to it.
        rerank_kept_spans: The start and end of the parts that the shorter content consists of.
        rerank_status: "ranked", "disabled" (switched off) or "failed" (scoring failed, `on_error="keep_order"`).
        rerank_error: The reason, if scoring failed.
        rerank_model: The model that scored.
    """

    first_stage_score: float | None = None
    rerank_log_odds: float | None = None
    rerank_calibrated: bool | None = None
    rerank_truncated: bool = False
    rerank_query_truncated: bool = False
    rerank_warnings: tuple[str, ...] = ()
    rerank_passage: str | None = None
    rerank_passage_span: tuple[int, int] | None = None
    rerank_spans: tuple[RelevantSpan, ...] = ()
    rerank_original_text: str | None = None
    rerank_kept_spans: tuple[tuple[int, int], ...] = ()
    rerank_status: Literal["ranked", "disabled", "failed"] = "ranked"
    rerank_error: str | None = None
    rerank_model: str = ""

    @classmethod
    def class_name(cls) -> str:
        """The name under which the class is serialized."""
        return "RerankedNode"


def render_nodes(
    nodes: Iterable[NodeWithScore], mode: MetadataMode, fields: Sequence[str] | None
) -> Candidates[NodeWithScore]:
    """Collect nodes and render the text of each.

    `fields` are the metadata keys that precede a node's content; None for those that `mode` chooses, written as the
    node's own templates say.

    Raises:
        InputTypeError: They are not an iterable of nodes; the message names the index of the first wrong item.
    """
    collected: list[NodeWithScore] = collect_documents(nodes, NodeWithScore, name="nodes")
    if fields is None:
        texts = [one.node.get_content(metadata_mode=mode) for one in collected]
        return Candidates(collected, texts, [0] * len(texts))
    return Candidates.render(
        collected, lambda one: (render_metadata(one.node.metadata, fields), _content(one.node))
    )


def reranked_nodes(
    candidates: Candidates[NodeWithScore], result: RerankResult, parameters: SpanParameters
) -> list[NodeWithScore]:
    """Return the ranking as new nodes; the nodes that were passed in are not changed.

    A node of a class derived from `NodeWithScore` comes back as a copy of that class, with the attributes of a
    `RerankedNode`. Its `to_dict` and its pickles contain those that the class declares as fields.
    """
    nodes, texts = candidates.documents, candidates.texts
    return [_reranked(nodes[one.index], texts[one.index], one, result, parameters) for one in result.results]


def _reranked(
    came: NodeWithScore, text: str, ranked: RankedDocument, result: RerankResult, parameters: SpanParameters
) -> NodeWithScore:
    span = ranked.span
    content = _content(came.node)
    excerpt = parameters.excerpt(ranked, content, lambda one: _span_in_content(came.node, text, one))
    shorter = None if excerpt is None else excerpt.text
    is_plain = type(came) is NodeWithScore
    is_reranked = not is_plain and bool(getattr(came, "rerank_status", None))
    outcome: dict[str, Any] = {
        "node": came.node if shorter is None else _with_text(came.node, shorter),
        "score": came.score if ranked.relevance_score is None else float(ranked.relevance_score),
        "first_stage_score": getattr(came, "first_stage_score", None) if is_reranked else came.score,
        "rerank_log_odds": ranked.log_odds,
        "rerank_calibrated": ranked.calibrated,
        "rerank_truncated": ranked.truncated,
        "rerank_query_truncated": ranked.query_truncated,
        "rerank_warnings": ranked.warnings,
        "rerank_passage": None if span is None else text[slice(*span)],
        "rerank_passage_span": None if span is None else _span_in_content(came.node, text, span),
        "rerank_spans": () if excerpt is None else excerpt.spans,
        "rerank_original_text": None if shorter is None else content,
        "rerank_kept_spans": () if excerpt is None else excerpt.kept,
        "rerank_status": result.status,
        "rerank_error": result.error,
        "rerank_model": result.model,
    }
    if is_plain or type(came) is RerankedNode:
        return RerankedNode(**outcome)
    return came.model_copy(update=outcome)


def _span_in_content(node: BaseNode, text: str, span: Span) -> Span | None:
    """Convert a span of the scored text to the node's own content, which `mode` may have stripped of white space."""
    content = _content(node)
    body = content.strip()
    position = text.rfind(body)
    if position < 0:  # the node's text template may have changed its content
        return None
    shift = content.find(body) - position
    start, end = (min(max(place + shift, 0), len(content)) for place in span)
    return (start, end) if start < end else None


def _with_text(node: BaseNode, text: str) -> BaseNode:
    """Return a copy of a node, with its id, another text and metadata of its own."""
    copied = node.model_copy(update={"metadata": dict(node.metadata)})
    copied.set_content(text)
    return copied


def _content(node: BaseNode) -> str:
    return node.get_content(metadata_mode=MetadataMode.NONE)
