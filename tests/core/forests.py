"""Prompts of random token ids with common prefixes."""

from __future__ import annotations

from collections.abc import Iterable

from hypothesis import strategies as st

from qwen_rerank_plugins.core.model.packing import Node, PackedForest
from qwen_rerank_plugins.core.sequences import Segment, TokenIds, group_by_prefix

VOCAB_SIZE = 64

segments = st.lists(st.integers(0, 5), max_size=5).map(tuple)
leaves = st.lists(st.integers(0, 5), min_size=1, max_size=6).map(tuple)


@st.composite
def prompt_lists(draw: st.DrawFn) -> list[Segment]:
    """Some prompts whose segments come from small pools, so that roots, queries and whole prompts recur."""
    pools = [draw(st.lists(segments, min_size=1, max_size=3)) for _ in range(draw(st.integers(0, 3)))]
    ends = draw(st.lists(leaves, min_size=1, max_size=4))
    prompt = st.tuples(*map(st.sampled_from, pools), st.sampled_from(ends)).map(
        lambda runs: Segment.after(None, *runs)
    )
    return draw(st.lists(prompt, min_size=1, max_size=12))


def ids(prompt: Segment) -> TokenIds:
    """A prompt's token ids."""
    return tuple(number for segment in prompt.path() for number in segment.ids)


def num_tokens(prompts: Iterable[Segment]) -> int:
    """Tokens of prompts, shared segments once."""
    return sum(len(segment.ids) for segment in {one for prompt in prompts for one in prompt.path()})


def path_nodes(forest: PackedForest, leaf: int) -> list[Node]:
    """The nodes from the root to a leaf."""
    return [forest.nodes[index] for index in (*forest.ancestors(leaf), leaf)]


def grid(root: int, heads: tuple[int, ...], tails: tuple[int, ...]) -> list[Segment]:
    """Prompts of one root: every head with every tail, by length, all ids different from neighbour to neighbour."""

    def run(length: int, seed: int) -> TokenIds:
        return tuple((7 * place + 11 * seed) % VOCAB_SIZE for place in range(length))

    return [
        Segment.after(None, run(root, 0), run(head, 1 + h), run(tail, 20 * h + t))
        for h, head in enumerate(heads)
        for t, tail in enumerate(tails)
    ]


def split_into_batches(prompts: list[Segment], max_batch_tokens: int) -> list[list[int]]:
    """Indices of prompts in batches of at most `max_batch_tokens` computed tokens, a longer prompt alone."""
    batches: list[list[int]] = []
    for index in group_by_prefix(prompts):
        if not batches or num_tokens(prompts[one] for one in [*batches[-1], index]) > max_batch_tokens:
            batches.append([])
        batches[-1].append(index)
    return batches
