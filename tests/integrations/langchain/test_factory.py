from __future__ import annotations

from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_qwen_rerank import QwenRerank, init_reranker
from langchain_qwen_rerank.factory import PROVIDERS

from qwen_rerank_plugins import ConfigurationError, RerankConfig

URL = "http://gpu-machine:8501"


@pytest.mark.parametrize(
    ("model", "settings", "wanted"),
    [
        ("", {}, {}),
        ("qwen3", {}, {}),
        ("demo", {}, {"model": "demo"}),
        ("qwen3:Qwen/Qwen3-Reranker-4B", {"top_n": 5}, {"model": "Qwen/Qwen3-Reranker-4B", "top_n": 5}),
        ("Qwen3:demo", {}, {"model": "demo"}),
        ("Qwen/Qwen3-Reranker-4B", {}, {"model": "Qwen/Qwen3-Reranker-4B"}),
        (f"remote:{URL}", {}, {"backend": "remote", "base_url": URL}),
        ("remote", {"base_url": URL}, {"backend": "remote", "base_url": URL}),
        (
            "remote:m",
            {"base_url": URL, "dialect": "tei"},
            {"backend": "remote", "base_url": URL, "dialect": "tei", "model": "m"},
        ),
        (
            "vllm:m",
            {"base_url": URL},
            {"backend": "remote", "base_url": URL, "dialect": "vllm", "model": "m"},
        ),
        (
            "cohere:rerank-v3.5",
            {"base_url": URL},
            {"backend": "remote", "base_url": URL, "dialect": "cohere", "model": "rerank-v3.5"},
        ),
        ("lexical", {}, {"backend": "lexical"}),
    ],
)
def test_a_string_names_a_reranker(model: str, settings: dict[str, Any], wanted: dict[str, Any]) -> None:
    found = init_reranker(model, **settings)
    assert type(found) is QwenRerank
    assert found.config.model_dump() == RerankConfig(**wanted).model_dump()


def test_with_a_provider_of_its_own_the_model_keeps_its_colons() -> None:
    assert init_reranker("C:\\models\\mine", provider="qwen3").config.model == "C:\\models\\mine"
    assert init_reranker(URL, provider="Remote").config.base_url == URL


def test_every_remote_provider_is_a_dialect_of_the_base_package() -> None:
    for name, settings in PROVIDERS.items():
        more: Any = {"base_url": URL} if settings["backend"] == "remote" else {}
        assert init_reranker(name, **more).config.model_dump(include=set(settings)) == settings


def test_an_unknown_provider_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(
        ConfigurationError,
        match=r"unknown provider 'qwen4'; did you mean 'qwen3'\?",
    ):
        init_reranker("qwen4:Qwen/Qwen3-Reranker-0.6B")
    with pytest.raises(ConfigurationError, match=r"unknown provider 'vlm'.*'vllm'"):
        init_reranker("m", provider="vlm")


def test_what_is_given_twice_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="'backend' was given by 'qwen3:a' and as a keyword"):
        init_reranker("qwen3:a", backend="remote")
    with pytest.raises(ConfigurationError, match="'dialect' was given by 'vllm:a'"):
        init_reranker("vllm:a", dialect="tei", base_url=URL)


def test_a_remote_provider_without_an_address_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="`base_url` must be set"):
        init_reranker("remote:some-model")


def test_what_it_returns_ranks() -> None:
    found = init_reranker("lexical", top_n=1).compress_documents(
        [Document("a fox"), Document("a whale")], "whale"
    )
    assert [one.page_content for one in found] == ["a whale"]
