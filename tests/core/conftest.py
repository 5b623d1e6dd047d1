"""Expensive fixtures that tests share: Qwen's vocabulary and the demo model."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import settings

from qwen_rerank_plugins.config import RerankConfig
from qwen_rerank_plugins.core.local_scorer import LocalScorer
from qwen_rerank_plugins.core.prompts.tokenizer import PromptTokenizer
from tests.core.oracle import Recipes
from tests.core.qwen_vocabulary import qwen_tokenizer, qwen_tokenizer_json

if not torch.cuda.is_available():
    # Triton reads it when a kernel is defined: its interpreter then runs the kernels on a CPU.
    os.environ["TRITON_INTERPRET"] = "1"

# Times on a shared machine say nothing about an example, and a failure must come again in the next run.
settings.register_profile("core", max_examples=50, deadline=None, derandomize=True, database=None)
settings.register_profile("core-long", parent=settings.get_profile("core"), max_examples=1000)


def pytest_configure(config: pytest.Config) -> None:
    """Use few examples by default, and many with `--long`."""
    settings.load_profile("core-long" if config.getoption("--long", default=False) else "core")


@pytest.fixture(scope="session")
def qwen() -> PromptTokenizer:
    """Qwen's real vocabulary, 151,669 ids."""
    return PromptTokenizer(qwen_tokenizer_json())


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
