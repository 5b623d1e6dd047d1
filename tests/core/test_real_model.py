"""Real weights of Qwen3-Reranker-0.6B, where QWEN_RERANK_TEST_MODEL names a folder that holds them.

Published numbers, and four cases in which a reranker has to understand what it reads.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import pytest

from qwen_rerank_plugins.config import RerankConfig
from qwen_rerank_plugins.core.local_scorer import LocalScorer
from qwen_rerank_plugins.types import ScoreRequest
from tests.core.tolerances import GOLDEN_LOG_ODDS, GOLDEN_PROBABILITY, assert_close

pytestmark = [pytest.mark.needs_model, pytest.mark.timeout(600)]

RED_PLANET = "Which planet is known as the Red Planet?"
PLANETS = {
    "Venus is often called Earth's twin because of its similar size and proximity.": -3.109297752380371,
    "Mars, known for its reddish appearance, is often referred to as the Red Planet.": 7.120389938354492,
    "Jupiter, the largest planet in our solar system, has a prominent red spot.": -0.3787546157836914,
    "Saturn, famous for its rings, is sometimes mistaken for the Red Planet.": 3.541637420654297,
}
README = {
    ("What is the capital of China?", "The capital of China is Beijing."): 0.9995,
    (
        "Explain gravity",
        (
            "Gravity is a force that attracts two bodies towards each other. It gives weight to physical objects and is "
            "responsible for the movement of planets around the sun."
        ),
    ): 0.9972,
}

CAT_FIRST = (
    "给猫咪洗澡不用太勤，一个月一次足够。猫的皮肤很敏感，水温要低于36℃，用猫专用的香波，洗完马上擦干吹干，别让它着凉。",
    "怎样安全地给狗狗洗澡：先给狗狗梳毛，洗澡的水调到38℃左右，安全地洗净泡沫，再给狗狗吹干。洗澡时要安抚狗狗。",
    "猫粮要放在阴凉干燥的地方，开封后一个月内吃完。",
)
CAT_FIRST_ENGLISH = (
    (
        "A cat's skin is sensitive: bathe it once a month at most, in water below 36 °C, with a shampoo made for cats, and "
        "dry it at once."
    ),
    (
        "How to wash a dog safely at home: brush the dog, wash it safely in water of 38 °C, and calm the dog while you "
        "wash it."
    ),
    "Cats sleep for most of the day and hunt at dusk.",
)
SNAKE_PLANT_FIRST = (
    "虎皮兰不需要阳光直射，放在客厅角落也能长得好，一个月浇一次水就行，忘了浇也没关系。",
    "栀子花喜欢充足的光照和酸性土壤，需要经常浇水施肥，叶子容易发黄，要细心照看。",
    "多肉植物每天要晒好几个小时太阳，光照不够就会徒长，浇水也要小心拿捏。",
    "月季适合种在院子里，要全日照，还要经常修剪、打药防病虫害。",
)
BOTH_PHONES_FIRST = (
    "iPhone 15 的卫星功能只能在紧急情况下单向求救，不能打电话；华为 Mate 60 Pro 可以直接拨打卫星电话，还能双向收发卫星消息。",
    "iPhone 15 换上了 4800 万像素的主摄，夜景和人像都比上一代清楚不少。",
    "华为 Mate 60 的起售价为 5499 元，上市当天很快售罄。",
    "iPhone 15 与华为 Mate 60 哪个更值得买？两款手机的屏幕、手感和颜色各有千秋。",
)
CHILDREN_FIRST = (
    "首都儿科研究所附属儿童医院，三级甲等，位于朝阳区雅宝路，呼吸内科设有小儿哮喘专科门诊。",
    "北京朝阳医院，三级甲等综合医院，位于朝阳区工体南路，呼吸科以成人慢阻肺和肺栓塞的诊治见长，不设儿科急诊。",
    "北京儿童医院，三级甲等，位于西城区南礼士路，呼吸科全国闻名。",
    "朝阳区某社区卫生服务中心，一级医院，提供儿童疫苗接种和常见病门诊。",
    "北京口腔医院，三级甲等，位于东城区，设有儿童口腔科。",
)
CASES = [
    ("怎样安全地给猫洗澡？", CAT_FIRST),
    ("How do I wash a cat safely?", CAT_FIRST_ENGLISH),
    ("推荐一种适合新手、耐阴又好养的室内植物", SNAKE_PLANT_FIRST),
    ("iPhone 15 和华为 Mate 60 的卫星通话功能有什么区别？", BOTH_PHONES_FIRST),
    ("北京朝阳区有小儿哮喘专科的三甲医院", CHILDREN_FIRST),
]


@pytest.fixture(scope="module")
def real() -> Iterator[LocalScorer]:
    """The real model in fp32 on the CPU."""
    folder = os.environ["QWEN_RERANK_TEST_MODEL"]
    scorer = LocalScorer.from_config(RerankConfig(model=folder, device="cpu", dtype="float32"))
    yield scorer
    scorer.close()


def probabilities(scorer: LocalScorer, query: str, documents: Sequence[str]) -> list[float]:
    scores = scorer.score([ScoreRequest(query, document) for document in documents])
    return [score.relevance_score for score in scores]


def test_the_red_planet_has_its_published_log_odds(real: LocalScorer) -> None:
    scores = real.score([ScoreRequest(RED_PLANET, document) for document in PLANETS])
    found = [score.log_odds or 0.0 for score in scores]
    assert_close(found, [*PLANETS.values()], GOLDEN_LOG_ODDS, "sentence-transformers' golden values")


def test_the_readmes_pairs_have_their_published_probabilities(real: LocalScorer) -> None:
    scores = real.score([ScoreRequest(*pair) for pair in README])
    found = [score.relevance_score for score in scores]
    assert_close(found, [*README.values()], GOLDEN_PROBABILITY, "the README's pairs")


@pytest.mark.parametrize(("query", "documents"), CASES, ids=["猫", "cat", "虎皮兰", "卫星", "医院"])
def test_the_right_text_comes_first(real: LocalScorer, query: str, documents: Sequence[str]) -> None:
    """The first text of each list is the answer; others share more words with the query."""
    scores = probabilities(real, query, documents)
    print([f"{score:.4f}" for score in scores])
    assert max(scores) == scores[0]
    assert sorted(scores)[-2] < scores[0]
