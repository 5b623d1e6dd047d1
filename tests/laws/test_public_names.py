"""The public API as a list: a change of it changes this list and the changelog."""

from __future__ import annotations

import importlib

import pytest

import qwen_rerank_plugins
from qwen_rerank_plugins import errors, types
from tests.laws.sources import Module, package_modules

PUBLIC = [
    "CheckpointError",
    "CheckpointFormatError",
    "CheckpointNotFoundError",
    "ClosedError",
    "ConfigurationError",
    "DeadlineExceededError",
    "DeviceLostError",
    "Document",
    "EngineError",
    "EngineOutOfMemoryError",
    "FamilyMismatchError",
    "InputError",
    "InputTypeError",
    "InstructionTooLongError",
    "LexicalScorer",
    "MissingDependencyError",
    "NonFiniteScoreError",
    "OverloadedError",
    "PairScore",
    "Priority",
    "RankedDocument",
    "RelevantSpan",
    "RemoteConnectionError",
    "RemoteError",
    "RemoteProtocolError",
    "RemoteStatusError",
    "RequestError",
    "RerankConfig",
    "RerankError",
    "RerankResult",
    "Reranker",
    "ScoreRequest",
    "Scorer",
    "Span",
    "SpanOptions",
    "TensorMismatchError",
    "TextLimits",
    "Usage",
    "WorkerDiedError",
    "__version__",
    "load_config",
]


def test_the_public_names_are_these() -> None:
    assert list(qwen_rerank_plugins.__all__) == PUBLIC
    assert sorted(PUBLIC) == PUBLIC


def test_every_contract_and_every_error_is_public() -> None:
    assert set(errors.__all__) | set(types.__all__) <= set(PUBLIC)


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_can_be_had(name: str) -> None:
    assert getattr(qwen_rerank_plugins, name) is not None
    assert name in dir(qwen_rerank_plugins)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nothing_such"):
        _ = qwen_rerank_plugins.nothing_such


@pytest.mark.parametrize(
    "module",
    [module for module in package_modules() if "/demo/train/" not in module.path],
    ids=lambda module: module.path,
)
def test_what_a_module_lists_as_public_exists(module: Module) -> None:
    """Their order is checked by ruff (RUF022)."""
    dotted = module.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    loaded = importlib.import_module(dotted)
    names = getattr(loaded, "__all__", [])
    assert [name for name in names if not hasattr(loaded, name)] == []
    assert len(set(names)) == len(names)
