"""Packing: a forest contains every prompt once, and computes each shared segment once."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from qwen_rerank_plugins.core.model.kv_layout import IndexArrays, KVLayout, concatenated_ranges
from qwen_rerank_plugins.core.model.packing import pack
from qwen_rerank_plugins.core.sequences import Segment, group_by_prefix
from tests.core.forests import grid, ids, num_tokens, path_nodes, prompt_lists

EXAMPLE = grid(4, (2, 3), (5, 1, 5))


@given(prompt_lists())
def test_a_forest_says_what_its_prompts_said(prompts: list[Segment]) -> None:
    """The path to a prompt's leaf contains its ids at the positions 0, 1, 2 and so on."""
    forest = pack(prompts)
    for prompt, leaf in zip(prompts, forest.leaves, strict=True):
        nodes = path_nodes(forest, leaf)
        assert tuple(number for node in nodes for number in node.ids) == ids(prompt)
        positions = [node.position + offset for node in nodes for offset in range(len(node.ids))]
        assert positions == list(range(prompt.end))
        assert [node.segment for node in nodes] == prompt.path()


@given(prompt_lists())
def test_rows_are_laid_out_without_gap_or_overlap(prompts: list[Segment]) -> None:
    forest = pack(prompts)
    rows = [row for node in forest.nodes for row in range(node.start, node.start + len(node.ids))]
    assert rows == list(range(forest.num_tokens))
    assert all(node.parent < place for place, node in enumerate(forest.nodes))


@given(prompt_lists())
def test_nothing_is_computed_twice(prompts: list[Segment]) -> None:
    forest = pack(prompts)
    segments = [node.segment for node in forest.nodes]
    assert len(set(segments)) == len(segments)
    assert forest.num_tokens == num_tokens(prompts)


@given(prompt_lists())
def test_siblings_stand_together_shorter_ones_first(prompts: list[Segment]) -> None:
    forest = pack(prompts)
    for parent, group in itertools.groupby(forest.nodes, lambda node: node.parent):
        lengths = [len(node.ids) for node in group]
        assert lengths == sorted(lengths)
        assert sum(node.parent == parent for node in forest.nodes) == len(lengths)


@given(prompt_lists(), st.data())
def test_cached_nodes_take_no_rows(prompts: list[Segment], data: st.DataObject) -> None:
    """A node is cached if its segment is, all its ancestors are, and no prompt ends with it."""
    chosen = set(data.draw(st.lists(st.sampled_from([one for prompt in prompts for one in prompt.path()]))))
    plain, forest = pack(prompts), pack(prompts, chosen)
    assert [node.segment for node in forest.nodes] == [node.segment for node in plain.nodes]
    ends = set(forest.leaves)
    for place, node in enumerate(forest.nodes):
        parent_cached = node.parent < 0 or forest.nodes[node.parent].is_cached
        assert node.is_cached == (node.segment in chosen and parent_cached and place not in ends)
    assert forest.num_tokens + forest.num_cached_tokens == plain.num_tokens
    rows = [n.start + i for n in forest.nodes if not n.is_cached for i in range(len(n.ids))]
    assert rows == list(range(forest.num_tokens))


def test_equal_prompts_share_their_leaf() -> None:
    forest = pack([EXAMPLE[0], EXAMPLE[1], EXAMPLE[0]])
    assert forest.leaves[0] == forest.leaves[2] != forest.leaves[1]


def test_a_prompt_may_be_a_prefix_of_another() -> None:
    short = Segment.after(None, (1, 2))
    long = Segment.after(short, (3,))
    forest = pack([long, short])
    assert [forest.nodes[leaf].segment for leaf in forest.leaves] == [long, short]
    assert not pack([long, short], {short}).nodes[0].is_cached


def test_prompts_without_a_common_root_make_several_trees() -> None:
    forest = pack([Segment.after(None, (1,), (2,)), Segment.after(None, (3,), (2,))])
    assert [node.parent for node in forest.nodes] == [-1, -1, 0, 1]


@given(prompt_lists())
def test_prompts_with_a_common_prefix_are_neighbours(prompts: list[Segment]) -> None:
    order = group_by_prefix(prompts)
    assert sorted(order) == list(range(len(prompts)))
    for depth in range(1, max(len(prompt.path()) for prompt in prompts)):
        groups = [key for key, _ in itertools.groupby(prompts[i].path()[:depth] for i in order)]
        assert len(groups) == len(set(map(tuple, groups)))


def test_shorter_prompts_of_a_query_come_first() -> None:
    assert group_by_prefix(EXAMPLE) == [1, 0, 2, 4, 3, 5]


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 6)), max_size=10))
def test_ranges_are_concatenated(ranges: list[tuple[int, int]]) -> None:
    starts, lengths = [start for start, _ in ranges], [length for _, length in ranges]
    expected = [number for start, length in ranges for number in range(start, start + length)]
    assert concatenated_ranges(starts, lengths).tolist() == expected


@given(prompts=prompt_lists())
def test_each_row_has_its_token_and_its_position(prompts: list[Segment]) -> None:
    forest = pack(prompts)
    layout = KVLayout(forest)
    rows = [(node, place) for node in forest.nodes for place in range(len(node.ids))]
    assert layout.token_ids().tolist() == [node.ids[place] for node, place in rows]
    assert layout.positions().tolist() == [node.position + place for node, place in rows]


def test_arrays_arrive_in_their_shapes() -> None:
    """None of them shares its numbers with another."""
    arrays = {
        "a": np.arange(6, dtype=np.int32).reshape(2, 3)[::-1],
        "none": np.zeros(0, np.int32),
        "b": np.arange(2, dtype=np.int32),
    }
    found = IndexArrays(arrays, torch.device("cpu")).on_device()
    assert {name: tensor.tolist() for name, tensor in found.items()} == {
        "a": [[3, 4, 5], [0, 1, 2]],
        "none": [],
        "b": [0, 1],
    }
