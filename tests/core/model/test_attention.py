"""Three attention backends: the grouped one and the Triton kernel must match the dense reference."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from qwen_rerank_plugins.core.model.attention import (
    Attention,
    AttentionShape,
    DenseAttention,
    ForestAttention,
    GroupedAttention,
    KVLayout,
)
from qwen_rerank_plugins.core.model.decoder import AttentionBackend
from qwen_rerank_plugins.core.model.kv_layout import IndexArrays
from qwen_rerank_plugins.core.model.packing import PackedForest, pack
from qwen_rerank_plugins.core.sequences import Segment
from tests.core.forests import grid, prompt_lists
from tests.core.tolerances import ATTENTION

pytestmark = pytest.mark.gpu

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SHAPES = (AttentionShape(1, 1, 8), AttentionShape(4, 2, 8), AttentionShape(6, 1, 4), AttentionShape(4, 4, 16))


BACKENDS: tuple[AttentionBackend, ...] = (GroupedAttention, ForestAttention)


def attention_of(backend: AttentionBackend, layout: KVLayout, shape: AttentionShape) -> Attention:
    arrays = backend.index_arrays(layout, shape) | {"last_rows": np.asarray(layout.last_rows, np.int32)}
    return backend(layout, shape, IndexArrays(arrays, DEVICE).on_device())


def pool(forest: PackedForest, shape: AttentionShape) -> tuple[Tensor, Tensor]:
    """Random queries of the packed rows, keys and values of the whole pool."""
    draw = torch.Generator().manual_seed(forest.num_tokens)
    rows = forest.num_cached_tokens + forest.num_tokens
    queries = torch.randn(forest.num_tokens, shape.num_heads * shape.head_dim, generator=draw)
    kv = torch.randn(rows, 2 * shape.num_kv_heads * shape.head_dim, generator=draw)
    return queries.to(DEVICE), kv.to(DEVICE)


def assert_all_agree(
    forest: PackedForest, shape: AttentionShape, backends: Sequence[AttentionBackend] = BACKENDS
) -> None:
    """Every attention backend matches the reference, for all rows and for the last ones."""
    layout = KVLayout(forest)
    queries, kv = pool(forest, shape)
    last = queries[layout.last_rows]
    dense = attention_of(DenseAttention, layout, shape)
    expected = dense.attend(queries, kv), dense.attend_last(last, kv)
    assert torch.allclose(expected[0][layout.last_rows], expected[1], atol=ATTENTION, rtol=0)
    for backend in backends:
        attention = attention_of(backend, layout, shape)
        found = (
            attention.attend(queries.clone(), kv),
            attention.attend_last(last.clone(), kv),
        )
        for a, b in zip(found, expected, strict=True):
            assert torch.allclose(a, b, atol=ATTENTION, rtol=0), backend.__name__


def rows_along(forest: PackedForest, leaf: int, layout: KVLayout) -> list[int]:
    """Rows of the pool along a prompt, in the prompt's order."""
    nodes = (*forest.ancestors(leaf), leaf)
    return list(itertools.chain.from_iterable(range(*layout.slices[n].indices(1 << 30)) for n in nodes))


def inner_segments(prompts: Sequence[Segment]) -> set[Segment]:
    return {segment for prompt in prompts for segment in prompt.path()[:-1]}


@given(sequences=prompt_lists(), shape=st.sampled_from(SHAPES))
def test_backends_agree_on_any_forest(sequences: list[Segment], shape: AttentionShape) -> None:
    assert_all_agree(pack(sequences), shape)


@given(sequences=prompt_lists(), shape=st.sampled_from(SHAPES))
def test_backends_agree_with_cached_prefixes(sequences: list[Segment], shape: AttentionShape) -> None:
    assert_all_agree(pack(sequences, inner_segments(sequences)), shape)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(
    ("root", "heads", "tails"),
    [
        (5, (3,), (127, 128, 129)),  # around a block of rows
        (3, (2,), (300, 300, 300)),  # siblings of equal length, several blocks each
        (200, (150,), (1, 1, 140)),  # ancestors longer than a block
        (4, (2, 2), (7,) * 9),  # two groups of equal siblings
        (1, (1,), (1,)),
    ],
)
def test_backends_agree_on_long_nodes_and_equal_siblings(
    shape: AttentionShape, root: int, heads: tuple[int, ...], tails: tuple[int, ...]
) -> None:
    sequences = grid(root, heads, tails)
    # Triton's interpreter takes seconds for a long node: one shape is enough for its blocks of rows and keys.
    backends = BACKENDS if shape is SHAPES[1] or DEVICE.type == "cuda" else (GroupedAttention,)
    assert_all_agree(pack(sequences), shape, backends)
    assert_all_agree(pack(sequences, inner_segments(sequences)), shape, backends)


def test_a_group_is_cut_where_its_scores_would_be_too_many() -> None:
    """4 heads × 128 rows × 300 keys allow six siblings at once; forty make seven parts."""
    assert_all_agree(pack(grid(50, (30,), (200,) * 40)), AttentionShape(4, 2, 4), (GroupedAttention,))


@given(sequences=prompt_lists())
def test_the_plain_mask_is_causal_attention_along_the_path(sequences: list[Segment]) -> None:
    """The reference is itself compared with an ordinary causal mask over each prompt alone."""
    shape = AttentionShape(2, 2, 8)
    forest = pack(sequences)
    layout = KVLayout(forest)
    queries, kv = pool(forest, shape)
    packed = attention_of(DenseAttention, layout, shape).attend(queries, kv)
    for leaf in forest.leaves:
        rows = rows_along(forest, leaf, layout)
        q, k, v = (t[rows].view(len(rows), 2, 8).transpose(0, 1) for t in (queries, *kv.chunk(2, -1)))
        alone = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        torch.testing.assert_close(
            packed[rows], alone.transpose(0, 1).reshape(len(rows), 16), atol=ATTENTION, rtol=0
        )


@pytest.mark.parametrize("backend", [DenseAttention, *BACKENDS])
def test_a_token_attends_to_its_past_alone(backend: AttentionBackend) -> None:
    """Values of other branches and of later tokens have no effect, even if they are infinite."""
    shape = AttentionShape(2, 1, 4)
    forest = pack(grid(3, (2, 2), (4, 4, 2)))
    layout = KVLayout(forest)
    queries, kv = pool(forest, shape)
    attention = attention_of(backend, layout, shape)
    expected = attention.attend(queries.clone(), kv)
    for index, node in enumerate(forest.nodes):
        seen = {*forest.ancestors(index), index}
        others = [n for n in range(len(forest.nodes)) if n not in seen]
        changed = kv.clone()
        for other in others:
            changed[layout.slices[other]] = 1e4
        changed[layout.slices[index].stop - 1] = 1e4
        rows = slice(node.start, node.start + len(node.ids) - 1)  # the last one sees itself
        found = attention.attend(queries.clone(), changed)
        assert torch.equal(found[rows], expected[rows])


def test_cached_rows_come_first() -> None:
    sequences = grid(4, (2, 3), (5, 1))
    forest = pack(sequences, set(sequences[0].path()[:2]))
    layout = KVLayout(forest)
    known = [layout.slices[n] for n, node in enumerate(forest.nodes) if node.is_cached]
    assert known == [slice(0, 4), slice(4, 6)]
    assert layout.slices[layout.ends[0]].start >= forest.num_cached_tokens == 6
