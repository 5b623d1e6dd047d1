"""Full fine-tunes as sentence-transformers and ms-swift save them load as they are."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import pytest
import torch

from qwen_rerank_plugins.config import RerankConfig
from qwen_rerank_plugins.core.checkpoints.checkpoint import open_checkpoint
from qwen_rerank_plugins.core.checkpoints.weights import load_weights
from qwen_rerank_plugins.core.local_scorer import LocalScorer
from qwen_rerank_plugins.demo import CHECKPOINT_DIR
from qwen_rerank_plugins.errors import FamilyMismatchError
from qwen_rerank_plugins.types import ScoreRequest
from tests.core.peft_adapters import base_model
from tests.core.tiny_checkpoints import Shape, make
from tests.core.tolerances import assert_close

REQUESTS = [ScoreRequest("how to wash a cat", text) for text in ("use warm water", "rockets need fuel")]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo, loaded and saved by sentence-transformers, with the record of its own vocabulary beside it."""
    folder = tmp_path_factory.mktemp("saved")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from sentence_transformers import CrossEncoder

        CrossEncoder(str(CHECKPOINT_DIR), device="cpu").save_pretrained(str(folder))
    shutil.copy(CHECKPOINT_DIR / "rerank_recipe.json", folder)
    return folder


def scores(model: str) -> list[float]:
    scorer = LocalScorer.from_config(
        RerankConfig(model=model, device="cpu", dtype="float32", self_check=False)
    )
    found = [score.log_odds for score in scorer.score(REQUESTS) if score.log_odds is not None]
    scorer.close()
    return found


def test_a_causal_model_of_sentence_transformers_loads(saved: Path) -> None:
    assert json.loads((saved / "modules.json").read_text())[1]["type"].endswith("LogitScore")
    assert_close(scores(str(saved)), scores("demo"))


def test_answers_other_than_those_of_training_are_refused(saved: Path, tmp_path: Path) -> None:
    """sentence-transformers records the token ids of its answers; other ids would return meaningless scores."""
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    (tmp_path / "1_LogitScore" / "config.json").write_text('{"true_token_id": 16, "false_token_id": 15}')
    with pytest.raises(
        FamilyMismatchError, match=r"answers' token ids \(16, 15\), but those of family 'qwen3'"
    ):
        scores(str(tmp_path))


def test_a_classifier_of_ms_swift_loads(tmp_path: Path) -> None:
    """It trains `AutoModelForSequenceClassification` with one label, and adds a record of its arguments."""
    model = base_model(make(tmp_path / "base", Shape()), "SEQ_CLS")
    model.config.problem_type = "regression"
    model.save_pretrained(tmp_path / "trained")
    (tmp_path / "trained" / "args.json").write_text('{"task_type": "reranker"}')
    checkpoint = open_checkpoint(str(tmp_path / "trained"))
    assert checkpoint.has_classifier
    weights = load_weights(checkpoint, (5, 9), torch.device("cpu"), torch.float32)
    assert torch.equal(weights.head, model.score.weight[0])


def test_a_causal_model_of_ms_swift_loads(tmp_path: Path) -> None:
    """Its generative reranker is the causal model, saved by transformers."""
    base = make(tmp_path / "base", Shape())
    base_model(base).save_pretrained(tmp_path / "trained")
    found, expected = (
        load_weights(open_checkpoint(str(folder)), (5, 9), torch.device("cpu"), torch.float32)
        for folder in (tmp_path / "trained", base)
    )
    assert torch.equal(found.head, expected.head)
    assert torch.equal(found.layers[2].down.weight, expected.layers[2].down.weight)
