from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from qwen_rerank_plugins import ScoreRequest
from qwen_rerank_plugins.remote.batching import make_batches

REQUESTS = st.lists(
    st.builds(
        ScoreRequest,
        st.sampled_from(["a", "b", "c"]),
        st.text(max_size=6),
        st.sampled_from([None, "", "mine"]),
    ),
    max_size=30,
)


@given(REQUESTS, st.integers(1, 5), st.integers(1, 20))
def test_every_pair_stands_in_one_batch_of_its_query_and_instruction(
    requests: list[ScoreRequest], max_documents: int, max_bytes: int
) -> None:
    batches = make_batches(requests, max_documents=max_documents, max_bytes=max_bytes)
    assert sorted(position for batch in batches for position in batch.positions) == list(range(len(requests)))
    for batch in batches:
        pairs = [requests[position] for position in batch.positions]
        assert {(pair.query, pair.instruction) for pair in pairs} == {(batch.query, batch.instruction)}
        assert tuple(pair.document for pair in pairs) == batch.documents


@given(REQUESTS, st.integers(1, 5), st.integers(1, 20))
def test_no_batch_is_over_a_limit_unless_one_document_is(
    requests: list[ScoreRequest], max_documents: int, max_bytes: int
) -> None:
    for batch in make_batches(requests, max_documents=max_documents, max_bytes=max_bytes):
        assert 1 <= len(batch.documents) <= max_documents
        size = sum(len(document.encode()) for document in batch.documents)
        assert size <= max_bytes or len(batch.documents) == 1


def test_pairs_of_one_query_share_a_batch_wherever_they_stand() -> None:
    requests = [ScoreRequest(query, str(number)) for number, query in enumerate("abab")]
    batches = make_batches(requests, max_documents=10, max_bytes=100)
    assert [(batch.query, batch.positions) for batch in batches] == [("a", (0, 2)), ("b", (1, 3))]


def test_a_batch_is_filled_before_the_next_begins() -> None:
    requests = [ScoreRequest("a", "x") for _ in range(7)]
    sizes = [len(one.documents) for one in make_batches(requests, max_documents=3, max_bytes=100)]
    assert sizes == [3, 3, 1]
    sizes = [len(one.documents) for one in make_batches(requests, max_documents=100, max_bytes=2)]
    assert sizes == [2, 2, 2, 1]


def test_lone_surrogates_have_a_size_too() -> None:
    assert make_batches([ScoreRequest("a", "\ud800")], max_documents=1, max_bytes=1)[0].positions == (0,)
