"""From LlamaIndex's nodes to texts, and from a ranking back to nodes. Knows no settings, no events, no scorer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from llama_index.core.schema import BaseNode, MetadataMode, NodeWithScore

from qwen_rerank_plugins import InputTypeError, RankedDocument, RerankResult, Span

__all__ = ["RerankedNode", "checked_nodes", "reranked_nodes", "scored_text"]


class RerankedNode(NodeWithScore):
    """A node with its new score, and what the reranker told about it.

    `node` is the very object that was passed in. Its text, metadata and hash stay as they were, so that nothing of
    this reaches a prompt or an embedding, whatever the `MetadataMode`. `score` is the probability in [0, 1] that the
    node is relevant; where nothing was scored (see `rerank_status`), it is the score that the node came with.

    Attributes:
        first_stage_score: The score that the node came with from the first stage, or None.
        rerank_log_odds: The probability's logit, which does not saturate; None from a service that does not tell.
        rerank_truncated: The text was cut to fit.
        rerank_query_truncated: The query was cut to fit.
        rerank_passage: The best passage of a text that was read in chunks, else None.
        rerank_passage_span: That passage's start and end (exclusive), in characters of the node's own content; None
            where it lies in the metadata.
        rerank_status: "ranked", "disabled" (switched off) or "failed" (scoring failed, `on_error="keep_order"`).
        rerank_error: Why scoring failed, when it did.
        rerank_model: The model that scored.
    """

    first_stage_score: float | None = None
    rerank_log_odds: float | None = None
    rerank_truncated: bool = False
    rerank_query_truncated: bool = False
    rerank_passage: str | None = None
    rerank_passage_span: tuple[int, int] | None = None
    rerank_status: Literal["ranked", "disabled", "failed"] = "ranked"
    rerank_error: str | None = None
    rerank_model: str = ""

    @classmethod
    def class_name(cls) -> str:
        """The name under which the class is written."""
        return "RerankedNode"


def checked_nodes(nodes: object) -> list[NodeWithScore]:
    """Collect the nodes, or refuse them.

    Raises:
        InputTypeError: One is no `NodeWithScore`; the message names its index.
    """
    if isinstance(nodes, str | bytes | NodeWithScore) or not isinstance(nodes, Iterable):
        kind = type(nodes).__name__
        raise InputTypeError(f"nodes has the wrong type: {kind}; allowed: a list of NodeWithScore")
    collected = list(nodes)
    for index, node in enumerate(collected):
        if not isinstance(node, NodeWithScore):
            kind = type(node).__name__
            raise InputTypeError(f"nodes[{index}] has the wrong type: {kind}; allowed: a NodeWithScore")
    return collected


def scored_text(node: BaseNode, mode: MetadataMode, fields: Sequence[str] | None = None) -> str:
    """Give the text that is judged of a node.

    Args:
        node: The node.
        mode: Which of its metadata go before its content.
        fields: The metadata keys that go before its content, in this order, in place of what `mode` means.
    """
    if fields is None:
        return node.get_content(metadata_mode=mode)
    held = [(key, node.metadata.get(key)) for key in fields]
    lines = [
        node.metadata_template.format(key=key, value=str(value))
        for key, value in held
        if value is not None and value != ""
    ]
    content = node.get_content(metadata_mode=MetadataMode.NONE)
    return f"{node.metadata_separator.join(lines)}\n\n{content}" if lines else content


def reranked_nodes(
    nodes: Sequence[NodeWithScore], texts: Sequence[str], result: RerankResult
) -> list[NodeWithScore]:
    """Give the ranking as new nodes; those that came in stay as they were.

    A node of a class of its own, derived from `NodeWithScore`, comes back as a copy of that class with the new score.
    """
    return [_reranked(nodes[ranked.index], texts[ranked.index], ranked, result) for ranked in result.results]


def _reranked(came: NodeWithScore, text: str, ranked: RankedDocument, result: RerankResult) -> NodeWithScore:
    score = came.score if ranked.relevance_score is None else float(ranked.relevance_score)
    if type(came) not in {NodeWithScore, RerankedNode}:
        return came.model_copy(update={"score": score})
    span = ranked.span
    return RerankedNode(
        node=came.node,
        score=score,
        first_stage_score=came.first_stage_score if isinstance(came, RerankedNode) else came.score,
        rerank_log_odds=ranked.log_odds,
        rerank_truncated=ranked.truncated,
        rerank_query_truncated=ranked.query_truncated,
        rerank_passage=None if span is None else text[slice(*span)],
        rerank_passage_span=None if span is None else _span_in_content(came.node, text, span),
        rerank_status=result.status,
        rerank_error=result.error,
        rerank_model=result.model,
    )


def _span_in_content(node: BaseNode, text: str, span: Span) -> Span | None:
    """Move a span of the scored text to the node's own content, which stands in it without outer white space."""
    content = node.get_content(metadata_mode=MetadataMode.NONE)
    body = content.strip()
    at = text.rfind(body)
    if at < 0:  # a text template of the node's own may change its content
        return None
    shift = content.find(body) - at
    start, end = (min(max(place + shift, 0), len(content)) for place in span)
    return (start, end) if start < end else None
