from __future__ import annotations

import asyncio
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_rerank_plugins import (
    ClosedError,
    InputError,
    LexicalScorer,
    PairScore,
    Scorer,
    ScoreRequest,
    TextLimits,
)
from qwen_rerank_plugins.recipe import REPAIRED_TEXT


def _log_odds(query: str, *documents: str) -> list[float]:
    scores = LexicalScorer().score([ScoreRequest(query, document) for document in documents])
    return [score.log_odds for score in scores if score.log_odds is not None]


def test_it_is_a_scorer() -> None:
    assert isinstance(LexicalScorer(), Scorer)


def test_the_score_is_the_stated_formula() -> None:
    assert _log_odds("Blue whale", "a blue fox", "the BLUE whale", "nothing", "") == pytest.approx(
        [8 / 2 - 4 + 1 / 3, 8 - 4 + 2 / 3, -4.0, -6.0]
    )


def test_more_of_the_query_counts_before_less_of_anything_else() -> None:
    full, half, none, empty = _log_odds(
        "blue whale", "a blue " + "very " * 50 + "big whale", "blue", "x", " "
    )
    assert full > half > none > empty


def test_chinese_is_compared_by_pairs_of_characters_and_width_does_not_matter() -> None:
    near, far = _log_odds("虎皮兰的养护", "虎皮兰很好养护", "养护兰虎皮的")
    assert near > far
    assert _log_odds("ＡＢＣ１２", "abc12") == [5.0]
    assert _log_odds("猫", "猫") == [5.0]


def test_bare_punctuation_is_compared_too() -> None:
    assert _log_odds("??", "??") == [5.0]


def test_a_long_document_is_cut_and_flagged() -> None:
    requests = [ScoreRequest("whale", "a fox and a whale"), ScoreRequest("whale", "whale")]
    cut, whole = LexicalScorer(max_chars=5).score(requests)
    assert (cut.truncated, cut.log_odds) == (True, -4.0)
    assert (whole.truncated, whole.log_odds) == (False, 5.0)


@pytest.mark.parametrize("max_chars", [0, -1, True])
def test_a_limit_below_one_is_refused(max_chars: int) -> None:
    with pytest.raises(InputError, match="`max_chars` must be an integer of at least 1"):
        LexicalScorer(max_chars=max_chars)


def test_it_answers_asynchronously_and_not_once_closed() -> None:
    scorer = LexicalScorer()
    requests = [ScoreRequest("a", "a")]
    assert asyncio.run(scorer.ascore(requests)) == scorer.score(requests)
    assert scorer.score([]) == []
    scorer.close()
    scorer.close()
    with pytest.raises(ClosedError):
        scorer.score(requests)


@given(st.lists(st.tuples(st.text(), st.text()), max_size=8))
def test_any_text_has_a_finite_score_that_depends_on_its_pair_alone(pairs: list[tuple[str, str]]) -> None:
    scorer = LexicalScorer()
    requests = [ScoreRequest(query, document) for query, document in pairs]
    scores = scorer.score(requests)
    assert scores == [scorer.score([request])[0] for request in requests]
    assert all(_is_sound(score) for score in scores)


def _is_sound(score: PairScore) -> bool:
    assert score.log_odds is not None
    probability = 1 / (1 + math.exp(-score.log_odds))
    is_probability = math.isclose(score.relevance_score, probability, rel_tol=1e-15)
    return -6 <= score.log_odds <= 5 and is_probability and score.num_tokens >= 0


def test_limits_of_a_request_count_words_and_characters() -> None:
    limits = TextLimits(max_document_tokens=3, max_query_tokens=2)
    requests = [
        ScoreRequest("blue whale sings", "a red fox, a blue whale", None, limits),
        ScoreRequest("虎皮兰养护", "虎皮兰很好养护", None, limits),
        ScoreRequest("blue whale", "a red fox", None, limits),
    ]
    plain = [ScoreRequest("blue whale", "a red fox"), ScoreRequest("虎皮", "虎皮兰")]
    cut, cjk, whole = LexicalScorer().score(requests)
    assert [cut.log_odds, cjk.log_odds] == [score.log_odds for score in LexicalScorer().score(plain)]
    assert [(one.truncated, one.query_truncated) for one in (cut, cjk, whole)] == [
        (True, True),
        (True, True),
        (False, False),
    ]


def test_a_limit_of_the_whole_leaves_the_query_alone() -> None:
    document = "a red fox and a blue whale"
    requests = [ScoreRequest("blue whale", document, None, TextLimits(max_length=size)) for size in (2, 5, 9)]
    none, three, all_words = LexicalScorer().score(requests)
    assert (none.log_odds, none.truncated) == (-6.0, True)
    assert (three.log_odds, three.truncated) == (_log_odds("blue whale", "a red fox")[0], True)
    assert (all_words.log_odds, all_words.truncated) == (_log_odds("blue whale", document)[0], False)


@pytest.mark.parametrize("broken", range(3))
def test_a_text_with_half_an_emoji_is_marked(broken: int) -> None:
    query, document, instruction = ("whale\ud83d" if place == broken else "whale" for place in range(3))
    marked, plain = LexicalScorer().score(
        [ScoreRequest(query, document, instruction), ScoreRequest("whale", "whale")]
    )
    assert (marked.warnings, plain.warnings) == ((REPAIRED_TEXT,), ())
