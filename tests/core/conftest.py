"""What is dear and shared: Qwen's vocabulary, and the demo model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from qwen_rerank_plugins.config import RerankConfig
from qwen_rerank_plugins.core.local import LocalScorer
from qwen_rerank_plugins.core.vocabulary import Vocabulary
from tests.core.oracle import Recipes
from tests.core.qwen_vocabulary import qwen_tokenizer, qwen_tokenizer_json


@pytest.fixture(scope="session")
def qwen() -> Vocabulary:
    """Qwen's real vocabulary, 151,669 ids."""
    return Vocabulary(qwen_tokenizer_json())


@pytest.fixture(scope="session")
def recipes() -> Recipes:
    """The authors' recipes over the same vocabulary, in transformers' own tokenizer."""
    from transformers import PreTrainedTokenizerFast

    tokenizer: Any = PreTrainedTokenizerFast(
        tokenizer_object=qwen_tokenizer(), pad_token="<|endoftext|>", padding_side="left"
    )
    return Recipes(tokenizer)


@pytest.fixture(scope="session")
def demo_settings() -> RerankConfig:
    """The demo model on this machine's CPU, in fp32."""
    return RerankConfig(model="demo", device="cpu", dtype="float32")


@pytest.fixture
def demo(demo_settings: RerankConfig) -> Iterator[LocalScorer]:
    """A scorer over the demo model, whose engine is shared by the session's tests; its cache is its own."""
    scorer = LocalScorer.from_config(demo_settings, shared=True)
    yield scorer
    scorer.close()


@pytest.fixture(scope="session", autouse=True)
def _loaded_once(request: pytest.FixtureRequest, demo_settings: RerankConfig) -> Iterator[None]:
    """Keep the shared demo engine between tests that use it."""
    if not any("demo" in getattr(item, "fixturenames", ()) for item in request.session.items):
        yield
        return
    scorer = LocalScorer.from_config(demo_settings, shared=True)
    yield
    scorer.close()
