"""Three attention backends: the grouped and the variable-length one must match the dense reference."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from qwen_rerank_plugins.core.model.attention import (
    AttentionShape,
    DenseAttention,
    GroupedAttention,
    KVLayout,
    VarlenAttention,
    varlen_attn_reference,
)
from qwen_rerank_plugins.core.model.decoder import AttentionBackend
from qwen_rerank_plugins.core.model.packing import PackedForest, pack
from qwen_rerank_plugins.core.sequences import Segment
from tests.core.forests import grid, prompt_lists
from tests.core.tolerances import ATTENTION

CPU = torch.device("cpu")
SHAPES = (AttentionShape(1, 1, 8), AttentionShape(4, 2, 8), AttentionShape(6, 1, 4), AttentionShape(4, 4, 16))


class ReferenceVarlen(VarlenAttention):
    """`VarlenAttention` with the reference kernel."""

    def __init__(self, layout: KVLayout, shape: AttentionShape, device: torch.device) -> None:
        super().__init__(layout, shape, device, kernel=varlen_attn_reference)


def varlen_attn_of_torch_2_11(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor,
    max_q: int,
    max_k: int,
    *,
    return_aux: Any = None,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
) -> Tensor:
    """The kernel without grouped heads: queries, keys and values have equally many."""
    assert return_aux is None
    assert query.shape[1] == key.shape[1] == value.shape[1]
    return varlen_attn_reference(
        query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, scale=scale, window_size=window_size
    )


class OldVarlen(VarlenAttention):
    """`VarlenAttention` with the kernel of torch 2.11."""

    def __init__(self, layout: KVLayout, shape: AttentionShape, device: torch.device) -> None:
        super().__init__(layout, shape, device, kernel=varlen_attn_of_torch_2_11)


BACKENDS: tuple[AttentionBackend, ...] = (GroupedAttention, ReferenceVarlen, OldVarlen)


def pool(forest: PackedForest, shape: AttentionShape) -> tuple[Tensor, Tensor, Tensor]:
    """Random queries of the packed rows, keys and values of the whole pool."""
    draw = torch.Generator().manual_seed(forest.num_tokens)
    rows = forest.num_cached_tokens + forest.num_tokens
    queries = torch.randn(forest.num_tokens, shape.num_heads * shape.head_dim, generator=draw)
    keys, values = torch.randn(2, rows, shape.num_kv_heads * shape.head_dim, generator=draw)
    return queries, keys, values


def assert_all_agree(forest: PackedForest, shape: AttentionShape) -> None:
    """Every attention backend matches the reference, for all rows and for the last ones."""
    layout = KVLayout(forest)
    queries, keys, values = pool(forest, shape)
    last = queries[layout.last_rows]
    dense = DenseAttention(layout, shape, CPU)
    expected = dense.attend(queries, keys, values), dense.attend_last(last, keys, values)
    assert torch.allclose(expected[0][layout.last_rows], expected[1], atol=ATTENTION, rtol=0)
    for backend in BACKENDS:
        attention = backend(layout, shape, CPU)
        found = (
            attention.attend(queries.clone(), keys, values),
            attention.attend_last(last.clone(), keys, values),
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
    assert_all_agree(pack(sequences), shape)
    assert_all_agree(pack(sequences, inner_segments(sequences)), shape)


def test_a_group_is_cut_where_its_scores_would_be_too_many() -> None:
    """4 heads × 128 rows × 300 keys allow six siblings at once; forty make seven parts."""
    assert_all_agree(pack(grid(50, (30,), (200,) * 40)), AttentionShape(4, 2, 4))


@given(sequences=prompt_lists())
def test_the_plain_mask_is_causal_attention_along_the_path(sequences: list[Segment]) -> None:
    """The oracle of the oracle: each prompt by itself, in its own order, under an ordinary causal mask."""
    shape = AttentionShape(2, 2, 8)
    forest = pack(sequences)
    layout = KVLayout(forest)
    queries, keys, values = pool(forest, shape)
    packed = DenseAttention(layout, shape, CPU).attend(queries, keys, values)
    for leaf in forest.leaves:
        rows = rows_along(forest, leaf, layout)
        q, k, v = (t[rows].view(len(rows), 2, 8).transpose(0, 1) for t in (queries, keys, values))
        alone = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        torch.testing.assert_close(
            packed[rows], alone.transpose(0, 1).reshape(len(rows), 16), atol=ATTENTION, rtol=0
        )


@pytest.mark.parametrize("backend", [DenseAttention, *BACKENDS])
def test_a_token_attends_to_its_past_alone(backend: AttentionBackend) -> None:
    """What other branches and later tokens hold, were it infinite, changes nothing."""
    shape = AttentionShape(2, 1, 4)
    forest = pack(grid(3, (2, 2), (4, 4, 2)))
    layout = KVLayout(forest)
    queries, keys, values = pool(forest, shape)
    attention = backend(layout, shape, CPU)
    expected = attention.attend(queries.clone(), keys, values)
    for index, node in enumerate(forest.nodes):
        seen = {*forest.ancestors(index), index}
        others = [n for n in range(len(forest.nodes)) if n not in seen]
        changed = [t.clone() for t in (keys, values)]
        for tensor, other in itertools.product(changed, others):
            tensor[layout.slices[other]] = 1e4
        for tensor in changed:
            tensor[layout.slices[index].stop - 1] = 1e4
        rows = slice(node.start, node.start + len(node.ids) - 1)  # the last one sees itself
        found = attention.attend(queries.clone(), *changed)
        assert torch.equal(found[rows], expected[rows])


# -------------------------------------------------------------------------------------- index tensors


def test_the_variable_length_calls_are_what_the_kernel_is_documented_to_take() -> None:
    """Query rows in packed order, keys gathered a node at a time behind their ancestors', offsets in int32."""
    calls: list[dict[str, Any]] = []

    @functools.wraps(varlen_attn_reference)
    def spy(q: Tensor, k: Tensor, v: Tensor, *offsets: Any, **options: Any) -> Tensor:
        calls.append({"q": q, "k": k, "offsets": offsets, "options": options})
        return varlen_attn_reference(q, k, v, *offsets, **options)

    forest = pack([Segment.after(None, (1, 2), (3, 4), tail) for tail in ((5,), (6, 7, 8))])
    layout, shape = KVLayout(forest), AttentionShape(4, 2, 8)
    queries, keys, values = pool(forest, shape)
    attention = VarlenAttention(layout, shape, CPU, spy)
    attention.attend(queries, keys, values)
    attention.attend_last(queries[layout.last_rows], keys, values)
    everything, last = calls
    cu_queries, cu_keys, longest_query, longest_key = everything["offsets"]
    assert cu_queries.tolist() == [0, 2, 4, 5, 8]
    assert cu_keys.tolist() == [0, 2, 6, 11, 18]
    assert (longest_query, longest_key) == (3, 7)
    assert cu_queries.dtype == cu_keys.dtype == torch.int32
    key_rows = [0, 1, *range(4), *range(5), *range(4), 5, 6, 7]
    assert torch.equal(everything["k"], keys[key_rows].view(-1, 2, 8))
    assert everything["options"] == {
        "scale": 8**-0.5,
        "window_size": (-1, 0),
        "enable_gqa": True,
        "num_splits": 1,
    }
    assert last["offsets"][0].tolist() == [0, 1, 2]
    assert last["offsets"][1].tolist() == [0, 5, 12]
    assert last["offsets"][2:] == (1, 7)


def test_cached_rows_come_first() -> None:
    sequences = grid(4, (2, 3), (5, 1))
    forest = pack(sequences, set(sequences[0].path()[:2]))
    layout = KVLayout(forest)
    known = [layout.slices[n] for n, node in enumerate(forest.nodes) if node.is_cached]
    assert known == [slice(0, 4), slice(4, 6)]
    assert layout.slices[layout.ends[0]].start >= forest.num_cached_tokens == 6


def test_the_reference_is_torchs_own_attention() -> None:
    """Aligned at the right end: with fewer queries than keys, the last query sees all of them."""
    from torch.nn.attention.bias import causal_lower_right

    q, k, v = torch.randn(2, 3, 8), torch.randn(2, 5, 8), torch.randn(2, 5, 8)
    bias: Any = causal_lower_right(3, 5)
    expected = torch.nn.functional.scaled_dot_product_attention(q[None], k[None], v[None], attn_mask=bias)[0]
    rows = [t.transpose(0, 1) for t in (q, k, v)]
    cu_q, cu_k = torch.tensor([0, 3]), torch.tensor([0, 5])
    found = varlen_attn_reference(rows[0], rows[1], rows[2], cu_q, cu_k, 3, 5, window_size=(-1, 0))
    torch.testing.assert_close(found.transpose(0, 1), expected, atol=ATTENTION, rtol=0)


def test_the_reference_refuses_offsets_that_do_not_fit() -> None:
    x = torch.randn(4, 1, 8)
    with pytest.raises(ValueError, match="offsets end at 3, 4 for 4 queries and 4 keys"):
        varlen_attn_reference(x, x, x, torch.tensor([0, 3]), torch.tensor([0, 4]), 3, 4)
    with pytest.raises(ValueError, match="offsets"):
        varlen_attn_reference(x, x, x, torch.tensor([0, 4]), torch.tensor([0, 4]), 4, 5)
    with pytest.raises(ValueError, match="window"):
        varlen_attn_reference(x, x, x, torch.tensor([0, 4]), torch.tensor([0, 4]), 4, 4, window_size=(3, 0))


def test_torchs_kernel_takes_what_the_reference_takes() -> None:
    """The reference stands in for it, so each argument that is passed must exist there, in the same order."""
    import inspect

    from torch.nn.attention.varlen import varlen_attn

    theirs = inspect.signature(varlen_attn).parameters
    ours = inspect.signature(varlen_attn_reference).parameters
    options = {"enable_gqa", "num_splits"}  # torch 2.11 has neither
    assert set(ours) - options <= set(theirs)
    assert options & set(theirs) in (set(), options)
    positional = [name for name, p in ours.items() if p.kind is not p.KEYWORD_ONLY]
    assert list(theirs)[: len(positional)] == positional
