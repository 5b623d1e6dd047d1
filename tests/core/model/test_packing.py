"""Packing: a forest contains every prompt once, and computes each shared segment once."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_rerank_plugins.core.model.packing import pack
from qwen_rerank_plugins.core.sequences import SegmentPath, TokenCounter, TokenSequence, group_by_prefix
from tests.core.forests import grid, ids, path_nodes, sequence_lists

EXAMPLE = grid(4, (2, 3), (5, 1, 5))


def counted(sequences: list[TokenSequence]) -> int:
    counter = TokenCounter()
    return sum(map(counter.add, sequences))


def all_paths(sequences: list[TokenSequence]) -> list[SegmentPath]:
    """Every path that a node of the prompts can have."""
    paths = {
        tuple(s for s in sequence.segments[:depth] if s)
        for sequence in sequences
        for depth in range(1, len(sequence.segments) + 1)
    }
    return sorted(paths - {()})


@given(sequence_lists())
def test_a_forest_says_what_its_prompts_said(sequences: list[TokenSequence]) -> None:
    """Along the path to its leaf stand a prompt's ids, at the positions 0, 1, 2 and so on."""
    forest = pack(sequences)
    for sequence, leaf in zip(sequences, forest.leaves, strict=True):
        nodes = path_nodes(forest, leaf)
        assert tuple(number for node in nodes for number in node.ids) == ids(sequence)
        positions = [node.position + offset for node in nodes for offset in range(len(node.ids))]
        assert positions == list(range(sequence.num_tokens))
        assert forest.nodes[leaf].path == tuple(segment for segment in sequence.segments if segment)


@given(sequence_lists())
def test_rows_are_laid_out_without_gap_or_overlap(sequences: list[TokenSequence]) -> None:
    forest = pack(sequences)
    rows = [row for node in forest.nodes for row in range(node.start, node.start + len(node.ids))]
    assert rows == list(range(forest.num_tokens))
    assert all(node.parent < place for place, node in enumerate(forest.nodes))


@given(sequence_lists())
def test_nothing_is_computed_twice(sequences: list[TokenSequence]) -> None:
    forest = pack(sequences)
    paths = [node.path for node in forest.nodes]
    assert len(set(paths)) == len(paths)
    assert forest.num_tokens == counted([TokenSequence(tuple(filter(None, s.segments))) for s in sequences])


@given(sequence_lists())
def test_siblings_stand_together_shorter_ones_first(sequences: list[TokenSequence]) -> None:
    forest = pack(sequences)
    for parent, group in itertools.groupby(forest.nodes, lambda node: node.parent):
        lengths = [len(node.ids) for node in group]
        assert lengths == sorted(lengths)
        assert sum(node.parent == parent for node in forest.nodes) == len(lengths)


@given(sequence_lists(), st.data())
def test_cached_nodes_take_no_rows(sequences: list[TokenSequence], data: st.DataObject) -> None:
    """A node is cached if its path is, all its ancestors are, and no prompt ends with it."""
    chosen = set(data.draw(st.lists(st.sampled_from(all_paths(sequences)))))
    plain, forest = pack(sequences), pack(sequences, chosen)
    assert [node.path for node in forest.nodes] == [node.path for node in plain.nodes]
    ends = set(forest.leaves)
    for place, node in enumerate(forest.nodes):
        parent_cached = node.parent < 0 or forest.nodes[node.parent].is_cached
        assert node.is_cached == (node.path in chosen and parent_cached and place not in ends)
    assert forest.num_tokens + forest.num_cached_tokens == plain.num_tokens
    rows = [n.start + i for n in forest.nodes if not n.is_cached for i in range(len(n.ids))]
    assert rows == list(range(forest.num_tokens))


def test_equal_prompts_share_their_leaf() -> None:
    forest = pack([EXAMPLE[0], EXAMPLE[1], EXAMPLE[0]])
    assert forest.leaves[0] == forest.leaves[2] != forest.leaves[1]


def test_a_prompt_may_be_a_prefix_of_another() -> None:
    short, long = TokenSequence(((1, 2),)), TokenSequence(((1, 2), (3,)))
    forest = pack([long, short])
    assert [forest.nodes[leaf].path for leaf in forest.leaves] == [((1, 2), (3,)), ((1, 2),)]
    assert not pack([long, short], {((1, 2),)}).nodes[0].is_cached


def test_prompts_without_a_common_root_make_several_trees() -> None:
    forest = pack([TokenSequence(((1,), (2,))), TokenSequence(((3,), (2,)))])
    assert [node.parent for node in forest.nodes] == [-1, -1, 0, 1]


def test_empty_segments_are_skipped() -> None:
    forest = pack([TokenSequence(((1,), (), (2,))), TokenSequence(((1,), (2,)))])
    assert len(forest.nodes) == 2
    assert forest.leaves == (1, 1)


def test_a_prompt_without_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match="without tokens"):
        pack([TokenSequence(((), ()))])


@given(sequence_lists())
def test_the_counter_knows_what_adding_will_cost(sequences: list[TokenSequence]) -> None:
    counter = TokenCounter()
    for sequence in sequences:
        expected, before = counter.cost(sequence), counter.num_tokens
        assert counter.add(sequence) == expected
        assert counter.num_tokens == before + expected
        assert counter.cost(sequence) == 0


@given(sequence_lists())
def test_prompts_with_a_common_prefix_are_neighbours(sequences: list[TokenSequence]) -> None:
    order = group_by_prefix(sequences)
    assert sorted(order) == list(range(len(sequences)))
    for depth in range(1, max(len(s.segments) for s in sequences)):
        groups = [key for key, _ in itertools.groupby(sequences[i].segments[:depth] for i in order)]
        assert len(groups) == len(set(groups))


def test_shorter_prompts_of_a_query_come_first() -> None:
    assert group_by_prefix(EXAMPLE) == [1, 0, 2, 4, 3, 5]
