"""Segments: equal prompts are the same object, and what they share is counted once."""

from __future__ import annotations

import gc

import pytest
from hypothesis import given

from qwen_rerank_plugins.core.sequences import Segment, unseen_segments
from tests.core.forests import ids, num_tokens, prompt_lists


def test_the_same_ids_after_the_same_parent_are_the_same_segment() -> None:
    root = Segment.after(None, (1, 2))
    assert Segment.after(root, (3,), (4, 5)) is Segment.after(None, (1, 2), (3,), (4, 5))
    assert Segment.after(root, (3,)) is not Segment.after(None, (3,))
    assert Segment.after(None, (1, 2, 3)) is not Segment.after(root, (3,)), (
        "segments are units, not their join"
    )


def test_a_segment_knows_its_positions() -> None:
    leaf = Segment.after(None, (1, 2), (3,), (4, 5))
    assert [(one.position, one.end, one.ids) for one in leaf.path()] == [
        (0, 2, (1, 2)),
        (2, 3, (3,)),
        (3, 5, (4, 5)),
    ]


def test_empty_segments_are_left_out() -> None:
    assert Segment.after(None, (1,), (), (2,)) is Segment.after(None, (1,), (2,))
    root = Segment.after(None, (1,))
    assert Segment.after(root, ()) is root


def test_a_prompt_without_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one token"):
        Segment.after(None, (), ())


def test_segments_that_nobody_holds_are_forgotten() -> None:
    """A service sees millions of documents; the table of segments must not keep them."""

    def num_held() -> int:
        return sum(ids[-1] == 123_456 for _, ids in list(Segment._interned))

    kept = [Segment.after(None, (9, 123_456), (number, 123_456)) for number in range(100)]
    assert num_held() == 101
    del kept
    gc.collect()
    assert num_held() == 0


@given(prompt_lists())
def test_unseen_segments_are_what_a_prompt_adds(prompts: list[Segment]) -> None:
    seen: set[Segment] = set()
    for prompt in prompts:
        before = num_tokens(seen)
        unseen, tokens = unseen_segments(prompt, seen)
        assert set(unseen) == set(prompt.path()) - seen
        seen.update(unseen)
        assert num_tokens(seen) == before + tokens
        assert unseen_segments(prompt, seen) == ([], 0)
    assert num_tokens(prompts) == num_tokens(seen) <= sum(len(ids(prompt)) for prompt in prompts)
