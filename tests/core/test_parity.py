"""Exactness: the scores of this project against the official recipe in transformers, and across batch sizes and orders."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qwen_rerank_plugins.core.engine.engine import reference_log_odds
from qwen_rerank_plugins.core.local_scorer import LocalScorer
from qwen_rerank_plugins.core.model.attention import DenseAttention, GroupedAttention
from qwen_rerank_plugins.core.prompts.encoder import PromptEncoder, TokenLimits
from qwen_rerank_plugins.core.prompts.families import FAMILIES
from qwen_rerank_plugins.core.prompts.tokenizer import PromptTokenizer, answer_ids
from qwen_rerank_plugins.core.sequences import Segment
from qwen_rerank_plugins.demo import CHECKPOINT_DIR
from qwen_rerank_plugins.types import ScoreRequest
from tests.core.engines import engine_of
from tests.core.forests import split_into_batches
from tests.core.oracle import OfficialModel, Pair, Recipes
from tests.core.texts import NASTY, texts
from tests.core.tiny_checkpoints import Shape, as_classifier, make, write_checkpoint
from tests.core.tolerances import assert_close, assert_probabilities_close, largest_difference, sigmoid

QWEN_IDS = 151_669

SHAPES = {
    "tied": Shape(vocab_size=QWEN_IDS),
    "untied": Shape(vocab_size=QWEN_IDS, is_tied=False, num_kv_heads=4, num_layers=2),
    "heads × head_dim ≠ hidden": Shape(vocab_size=QWEN_IDS, num_heads=8, head_dim=32),
    "qwen2": Shape("qwen2", vocab_size=QWEN_IDS, num_kv_heads=1, head_dim=12),
    "classifier": Shape(vocab_size=QWEN_IDS, has_classifier=True),
}
FAMILY_OF = {"qwen2": "mxbai"}

PAIRS: tuple[Pair, ...] = (
    *itertools.product(
        ("How to wash a cat?", "怎样安全地给猫洗澡"), (*NASTY[16:60:4], "Use water below 36 °C.")
    ),
    ("", ""),
    ("lone query", ""),
    ("", "lone document"),
    ("long", "A sentence about cats, dogs and 医院. " * 40),
    ("How to wash a cat?", "Use water below 36 °C."),
)


@dataclass(frozen=True)
class Twin:
    """A checkpoint loaded by this package and by transformers."""

    folder: Path
    shape: Shape
    family: str


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("parity")


@pytest.fixture(scope="module", params=SHAPES)
def twin(request: pytest.FixtureRequest, folders: Path) -> Twin:
    name: str = request.param
    folder = make(folders / str(list(SHAPES).index(name)), SHAPES[name], seed=len(name))
    return Twin(folder, SHAPES[name], FAMILY_OF.get(name, "qwen3"))


@pytest.fixture(scope="module")
def tied(folders: Path) -> Twin:
    return Twin(make(folders / "tied", SHAPES["tied"]), SHAPES["tied"], "qwen3")


def prompts_of(
    qwen: PromptTokenizer, pairs: Sequence[Pair], family: str = "qwen3", **limits: Any
) -> list[Segment]:
    encoder = PromptEncoder(qwen, FAMILIES[family], TokenLimits(**limits))
    encoded = encoder.encode([ScoreRequest(*pair) for pair in pairs])
    return [prompt for pair in encoded for prompt in pair.prompts]


def official_ids(recipes: Recipes, family: str, pair: Pair, max_length: int = 8192) -> list[int]:
    return recipes.mxbai(pair) if family == "mxbai" else recipes.qwen3(pair, max_length=max_length)


# -------------------------------------------------------------------------- against the official recipe


def test_fp32_scores_are_the_official_ones(qwen: PromptTokenizer, recipes: Recipes, twin: Twin) -> None:
    """Texts to log-odds in one packed batch, against transformers' forward of the authors' ids."""
    answers = answer_ids(qwen, FAMILIES[twin.family])
    official = OfficialModel(twin.folder, has_classifier=twin.shape.has_classifier)
    wanted = official.log_odds([official_ids(recipes, twin.family, pair) for pair in PAIRS], answers)
    found = engine_of(twin.folder, answers).log_odds(prompts_of(qwen, PAIRS, twin.family))
    assert_close(found, wanted, what=f"fp32, {twin.shape.model_type}, {len(PAIRS)} pairs")
    assert max(wanted) - min(wanted) > 0.1  # the comparison compares something


def test_bf16_scores_are_near_the_official_ones_of_the_rounded_weights(
    qwen: PromptTokenizer, recipes: Recipes, twin: Twin, tmp_path: Path
) -> None:
    """The weights are rounded on both sides, so the difference is that of computing in bf16."""
    folder = make(tmp_path, twin.shape, torch.bfloat16, seed=3)
    answers = answer_ids(qwen, FAMILIES[twin.family])
    ids = [official_ids(recipes, twin.family, pair) for pair in PAIRS]
    classifier = twin.shape.has_classifier
    wanted = OfficialModel(folder, has_classifier=classifier).log_odds(ids, answers)
    theirs = OfficialModel(folder, has_classifier=classifier, dtype=torch.bfloat16).log_odds(ids, answers)
    found = engine_of(folder, answers, torch.bfloat16).log_odds(prompts_of(qwen, PAIRS, twin.family))
    error = largest_difference([*map(sigmoid, theirs)], [*map(sigmoid, wanted)])
    assert_probabilities_close(found, wanted, f"bf16 probability (the official bf16 recipe: {error:.3g})")


def test_truncated_prompts_score_as_the_official_ones(
    qwen: PromptTokenizer, recipes: Recipes, tied: Twin
) -> None:
    answers = answer_ids(qwen, FAMILIES["qwen3"])
    pairs = [("cat", document) for document in ("word " * 200, "北京" * 200, "short", "x" * 999)]
    ids = [recipes.qwen3(pair, max_length=128) for pair in pairs]
    wanted = OfficialModel(tied.folder).log_odds(ids, answers)
    found = engine_of(tied.folder, answers).log_odds(prompts_of(qwen, pairs, max_length=128))
    assert_close(found, wanted, what="truncated to 128 tokens")


def test_a_conversion_scores_as_what_it_was_made_from(
    qwen: PromptTokenizer, recipes: Recipes, folders: Path
) -> None:
    """score.weight = lm_head[yes] − lm_head[no], and the same log-odds, here and in transformers."""
    yes, no = answer_ids(qwen, FAMILIES["qwen3"])
    assert no is not None
    causal = Shape(vocab_size=QWEN_IDS, is_tied=False, num_layers=2)
    classifier = Shape(vocab_size=QWEN_IDS, is_tied=False, num_layers=2, has_classifier=True)
    tensors = as_classifier(causal.tensors(seed=8), yes, no)
    original = make(folders / "causal", causal, seed=8)
    converted = write_checkpoint(folders / "converted", classifier.config, tensors)
    prompts = prompts_of(qwen, PAIRS)
    expected = OfficialModel(original).log_odds([recipes.qwen3(pair) for pair in PAIRS], (yes, no))
    assert_close(engine_of(original, (yes, no)).log_odds(prompts), expected, what="causal")
    assert_close(engine_of(converted, (yes, no)).log_odds(prompts), expected, what="converted")


def test_zerank_is_a_fifth_of_one_logit(qwen: PromptTokenizer, recipes: Recipes, tied: Twin) -> None:
    answers = answer_ids(qwen, FAMILIES["zerank"])
    wanted = OfficialModel(tied.folder).log_odds([recipes.zerank(pair) for pair in PAIRS], answers)
    engine = engine_of(tied.folder, answers, scale=FAMILIES["zerank"].scale)
    found = engine.log_odds(prompts_of(qwen, PAIRS, "zerank"))
    assert_close(found, [0.2 * logit for logit in wanted], what="zerank")


@pytest.fixture(scope="module")
def demo_recipes() -> Recipes:
    from transformers import AutoTokenizer

    return Recipes(AutoTokenizer.from_pretrained(CHECKPOINT_DIR, local_files_only=True))


@cache
def official_demo() -> OfficialModel:
    return OfficialModel(CHECKPOINT_DIR)


def demo_answers(recipes: Recipes) -> tuple[int, int]:
    ((yes,), (no,)) = recipes.ids("yes"), recipes.ids("no")
    return yes, no


def test_the_demo_scores_as_the_official_recipe_does(demo: LocalScorer, demo_recipes: Recipes) -> None:
    """The whole path through the scorer, with cache and scheduler."""
    ids = [demo_recipes.qwen3(pair) for pair in PAIRS]
    wanted = official_demo().log_odds(ids, demo_answers(demo_recipes))
    scores = demo.score([ScoreRequest(*pair) for pair in PAIRS])
    assert_close([score.log_odds or 0.0 for score in scores], wanted, what="demo, fp32")
    assert [score.num_tokens for score in scores] == [len(prompt) for prompt in ids]


@given(
    pairs=st.lists(st.tuples(texts, texts), min_size=1, max_size=6),
    repeat=st.integers(1, 2),
    instruction=texts,
)
def test_any_batch_scores_as_the_official_recipe_does(
    demo_settings: Any, demo_recipes: Recipes, pairs: list[Pair], repeat: int, instruction: str
) -> None:
    """Any texts, with empty ones and duplicates, in any batch."""
    wanted = official_demo().log_odds(
        [demo_recipes.qwen3(pair, instruction) for pair in pairs], demo_answers(demo_recipes)
    )
    scorer = LocalScorer.from_config(demo_settings.replace(cache_entries=0), shared=True)
    scores = scorer.score([ScoreRequest(q, d, instruction) for q, d in pairs * repeat])
    scorer.close()
    assert_close([score.log_odds or 0.0 for score in scores], wanted * repeat, what="demo, any batch")


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_the_shape_of_the_real_model_is_exact_too(
    qwen: PromptTokenizer, recipes: Recipes, tmp_path: Path
) -> None:
    """Qwen3-Reranker-0.6B with random weights: 28 layers of 1,024, 16 heads of 128."""
    shape = Shape(
        hidden_size=1024, intermediate_size=3072, num_layers=28, num_heads=16, num_kv_heads=8, head_dim=128,
        vocab_size=QWEN_IDS,
    )  # fmt: skip
    folder = make(tmp_path, shape, torch.bfloat16)
    answers = answer_ids(qwen, FAMILIES["qwen3"])
    pairs = PAIRS[::4]
    wanted = OfficialModel(folder).log_odds([recipes.qwen3(pair) for pair in pairs], answers, batch_size=1)
    found = engine_of(folder, answers).log_odds(prompts_of(qwen, pairs))
    assert_close(found, wanted, what="the 0.6B shape, fp32")
    found = engine_of(folder, answers, torch.bfloat16).log_odds(prompts_of(qwen, pairs))
    assert_probabilities_close(found, wanted, "the 0.6B shape, bf16")


# ---------------------------------------------------------------------- against the reference


@pytest.mark.parametrize("attention_backend", [GroupedAttention, DenseAttention])
def test_sharing_changes_nothing(qwen: PromptTokenizer, twin: Twin, attention_backend: Any) -> None:
    """One packed batch against each prompt alone, for every attention backend."""
    engine = engine_of(
        twin.folder, answer_ids(qwen, FAMILIES[twin.family]), attention_backend=attention_backend
    )
    prompts = prompts_of(qwen, PAIRS, twin.family)
    assert_close(
        engine.log_odds(prompts), reference_log_odds(engine.decoder, prompts), what=attention_backend.__name__
    )


def test_packing_and_merging_change_nothing(qwen: PromptTokenizer, tied: Twin) -> None:
    """All at once, in batches of any budget, one by one, and in reverse order: the same scores."""
    engine = engine_of(tied.folder, answer_ids(qwen, FAMILIES["qwen3"]))
    prompts = prompts_of(qwen, PAIRS)
    together = engine.log_odds(prompts)
    assert_close([engine.log_odds([prompt])[0] for prompt in prompts], together, what="one by one")
    assert_close(engine.log_odds(prompts[::-1])[::-1], together, what="backwards")
    for budget in (100, 300, 1000):
        found = [0.0] * len(prompts)
        for batch in split_into_batches(prompts, budget):
            for index, score in zip(batch, engine.log_odds([prompts[i] for i in batch]), strict=True):
                found[index] = score
        assert_close(found, together, what=f"batches of {budget}")


def test_cached_prefixes_change_nothing(qwen: PromptTokenizer, tied: Twin) -> None:
    """The second call finds the root and the queries cached."""
    engine = engine_of(tied.folder, answer_ids(qwen, FAMILIES["qwen3"]), prefix_cache_bytes=1 << 24)
    prompts = prompts_of(qwen, PAIRS)
    first, second = engine.log_odds(prompts), engine.log_odds(prompts)
    assert engine.prefix_cache.hits > 0
    assert_close(second, first, what="cached prefixes")


def test_splitting_otherwise_changes_nothing(qwen: PromptTokenizer, tied: Twin) -> None:
    """The boundaries of a prompt's segments affect cost only."""
    engine = engine_of(tied.folder, answer_ids(qwen, FAMILIES["qwen3"]))
    prompts = prompts_of(qwen, PAIRS)
    whole = [tuple(number for segment in p.path() for number in segment.ids) for p in prompts]
    other = [Segment.after(None, ids[:7], ids[7:20], (), ids[20:41], ids[41:]) for ids in whole]
    assert_close(engine.log_odds(other), engine.log_odds(prompts), what="other segments")
