from __future__ import annotations

import pytest
from tokenizers import Tokenizer

from benchmarks.workloads import DEFAULT_SIZES, WORDS, make_warm_up, make_workloads, spread
from qwen_rerank_plugins.demo import CHECKPOINT_DIR


def count_words(text: str) -> int:
    return len(text.split())


def count_demo_tokens(text: str) -> int:
    tokenizer = Tokenizer.from_file(str(CHECKPOINT_DIR / "tokenizer.json"))
    return len(tokenizer.encode(text, add_special_tokens=False).ids)


def test_workloads_are_the_same_every_time() -> None:
    assert make_workloads(count_words, DEFAULT_SIZES) == make_workloads(count_words, DEFAULT_SIZES)


def test_a_workload_does_not_depend_on_which_others_are_measured() -> None:
    every = {one.name: one for one in make_workloads(count_words, DEFAULT_SIZES)}
    for name, size in DEFAULT_SIZES.items():
        assert make_workloads(count_words, {name: size}) == [every[name]]


def test_documents_have_the_lengths_that_the_workload_promises() -> None:
    bounds = {"mixed": (30, 400), "short": (8, 32), "long": (1024, 1024), "pairs": (30, 200)}
    for workload in make_workloads(count_words, DEFAULT_SIZES):
        shortest, longest = bounds[workload.name]
        assert (min(workload.lengths), max(workload.lengths)) == (shortest, longest)
        assert tuple(count_words(document) for _, document in workload.pairs) == workload.lengths


def test_lengths_hold_for_a_real_tokenizer_in_which_words_differ_in_tokens() -> None:
    costs = {word: count_demo_tokens(f" {word}") for word in WORDS}
    assert min(costs.values()) == 1

    def count(text: str) -> int:
        word = text.removeprefix(" ")
        return costs[word] if word in costs else count_demo_tokens(text)

    (workload,) = make_workloads(count, {"mixed": 6})
    for length, (_, document) in zip(workload.lengths, workload.pairs, strict=True):
        assert count_demo_tokens(f" {document}") == length


def test_all_documents_share_one_query_but_in_pairs() -> None:
    for workload in make_workloads(count_words, DEFAULT_SIZES):
        queries = {query for query, _ in workload.pairs}
        assert len(queries) == (len(workload.pairs) if workload.name == "pairs" else 1)


def test_documents_and_queries_differ_so_that_nothing_can_be_scored_once_for_two() -> None:
    workloads = make_workloads(count_words, DEFAULT_SIZES)
    documents = [document for workload in workloads for _, document in workload.pairs]
    documents += [document for _, document in make_warm_up(count_words)]
    assert len(set(documents)) == len(documents)
    measured = {query for workload in workloads for query, _ in workload.pairs}
    assert not measured & {query for query, _ in make_warm_up(count_words)}


def test_a_single_document_is_a_workload() -> None:
    import random

    assert spread(30, 400, 1, random.Random(0)) == [30]


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"tiny": 3}, "unknown workload 'tiny'; use one of mixed"),
        ({"mixed": 0}, "mixed: 0; use at least 1"),
    ],
)
def test_wrong_workloads_are_refused(sizes: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_workloads(count_words, sizes)
