"""What the contract is tried on, and how two results are compared. Knows no reranker."""

from __future__ import annotations

from collections.abc import Sequence

from llama_index.core.schema import NodeRelationship, NodeWithScore, RelatedNodeInfo, TextNode

__all__ = ["TEXTS", "make_nodes", "near", "node_of", "shown"]

Shown = list[tuple[str, float | None]]

TOLERANCE = 1e-4
"""How far scores of the same pair may lie apart: batches of other sizes round otherwise."""

TEXTS = (
    "Night trains to the coast leave from platform four at a quarter past ten.",
    "A kettle is descaled with vinegar and water, boiled together and left for an hour.",
    "The library lends books for four weeks.",
    "To descale a kettle, boil water with citric acid.",
    "Vinegar keeps for years when the bottle is closed.",
    "A bicycle tube is patched with rubber solution.",
)


def shown(nodes: Sequence[NodeWithScore]) -> Shown:
    """Give id and score of each node."""
    return [(one.node_id, one.score) for one in nodes]


def near(one: Shown, other: Shown) -> bool:
    """Whether two results have the same nodes, and scores as near as two batches of one model agree."""
    return [node_id for node_id, _ in one] == [node_id for node_id, _ in other] and all(
        left == right or (left is not None and right is not None and abs(left - right) <= TOLERANCE)
        for (_, left), (_, right) in zip(one, other, strict=True)
    )


def node_of(text: str, node_id: str, score: float | None) -> NodeWithScore:
    """Make a node with metadata, of which some are hidden from the language model and some from the embedding."""
    node = TextNode(
        text=text,
        id_=node_id,
        metadata={"title": "Household", "shelf": 7, "checksum": "c0ffee"},
        excluded_llm_metadata_keys=["checksum"],
        excluded_embed_metadata_keys=["shelf", "checksum"],
        relationships={NodeRelationship.SOURCE: RelatedNodeInfo(node_id="handbook")},
    )
    return NodeWithScore(node=node, score=score)


def make_nodes(scores: Sequence[float] | None = None) -> list[NodeWithScore]:
    """Make a first stage's result, with the given first scores, or falling ones of which one is missing."""
    falling = [0.9, 0.8, 0.7, None, 0.5, 0.4]
    return [
        node_of(text, f"node-{index}", score)
        for index, (text, score) in enumerate(zip(TEXTS, scores or falling, strict=True))
    ]
