from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from haystack.core.errors import DeserializationError
from haystack.utils import ComponentDevice, Secret
from haystack_integrations.components.rankers.qwen_rerank import QwenReranker
from pydantic import SecretStr

from qwen_rerank_plugins import ConfigurationError, RerankConfig, Reranker
from tests.doubles import FakeScorer
from tests.integrations.haystack.documents import ids, some_documents

SECRET = "sk-very-secret"
REMOTE: dict[str, Any] = {"backend": "remote", "base_url": "http://127.0.0.1:9"}
TYPE = "haystack_integrations.components.rankers.qwen_rerank.ranker.QwenReranker"


def parameters(ranker: Any) -> dict[str, Any]:
    """The serialized parameters of a ranker, as read from a file."""
    written = ranker.to_dict()
    assert written["type"] == TYPE
    read: dict[str, Any] = json.loads(json.dumps(written))["init_parameters"]
    return read


def key_of(ranker: Any) -> str | None:
    key = ranker.config.api_key
    return None if key is None else str(key.get_secret_value())


# Where settings come from.


def test_every_setting_of_the_base_is_a_keyword_of_the_same_name() -> None:
    values: dict[str, Any] = {
        "model": "demo",
        "device": "cpu",
        "dtype": "float32",
        "max_length": 512,
        "instruction": "find it",
        "top_n": 5,
        "min_score": 0.25,
        "on_error": "keep_order",
    }
    assert QwenReranker(**values).config == RerankConfig(**values)
    assert QwenReranker().config == RerankConfig()


def test_haystacks_names_of_settings_are_taken_too() -> None:
    wanted = RerankConfig(top_n=5, min_score=0.25, device="cuda:1")
    device = ComponentDevice.from_str("cuda:1")
    assert QwenReranker(top_k=5, score_threshold=0.25, device=device).config == wanted
    assert QwenReranker(config=wanted, top_k=None).config == wanted.replace(top_n=None)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"topn": 5}, "unknown setting 'topn'.*top_n"),
        ({"trust_remote_code": True}, "unknown setting 'trust_remote_code'"),
        ({"scorer": FakeScorer()}, "unknown setting 'scorer'"),
        ({"top_k": 0}, "`top_n` must be at least 1, got 0"),
        ({"top_k": 1, "top_n": 1}, "'top_k' and 'top_n' are one setting"),
        ({"score_threshold": 2}, "`min_score` must be at most 1, got 2"),
        ({"config": {"model": "demo"}}, "config has the wrong type"),
        ({"reranker": "demo"}, "reranker has the wrong type: 'demo'.*model=..."),
        ({"metadata_fields": "title"}, "metadata_fields is not valid: 'title'. Pass a list"),
        ({"meta_fields_to_embed": "title"}, "meta_fields_to_embed is not valid: 'title'. Pass a list"),
        ({"embedding_separator": None}, "embedding_separator is not valid: None. Pass a string"),
        (
            {"metadata_fields": ["a"], "meta_fields_to_embed": ["b"]},
            "exclude each other: meta_fields_to_embed, metadata_fields",
        ),
        (
            {"metadata_fields": [], "embedding_separator": " "},
            "exclude each other: embedding_separator, metadata_fields",
        ),
        ({"reranker": Reranker(), "top_k": 2}, "passed together with settings: 'top_n'"),
        ({"reranker": Reranker(), "config": RerankConfig()}, "passed together with settings: 'config'"),
    ],
)
def test_an_unknown_or_wrong_setting_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        QwenReranker(**settings)


def test_settings_are_keywords() -> None:
    kind: Any = QwenReranker
    with pytest.raises(TypeError):
        kind("demo")


def test_arguments_beat_the_environment_which_beats_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rerank.yaml"
    path.write_text("backend: lexical\ntop_n: 1\nmin_score: 0.1\ninstruction: file\n")
    monkeypatch.setenv("QWEN_RERANK_TOP_N", "2")
    monkeypatch.setenv("QWEN_RERANK_MIN_SCORE", "0.2")
    wanted = RerankConfig(backend="lexical", top_n=3, min_score=0.2, instruction="file")
    ranker = QwenReranker.from_config(path, top_k=3, meta_fields_to_embed=["title"])
    assert (ranker.config, ranker.meta_fields_to_embed) == (wanted, ("title",))
    monkeypatch.setenv("QWEN_RERANK_CONFIG", str(path))
    assert QwenReranker.from_env(top_n=3).config == wanted
    assert QwenReranker(backend="lexical").config.top_n is None, "the constructor read the environment"


def test_a_wrong_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rerank.toml"
    path.write_text('modle = "demo"\n')
    with pytest.raises(ConfigurationError, match=r"modle.*model"):
        QwenReranker.from_config(path)


# What is written down.


@pytest.mark.parametrize(
    ("settings", "written"),
    [
        ({}, {}),
        ({"top_n": None, "enabled": True}, {"top_k": None, "enabled": True}),
        ({"top_k": 5, "score_threshold": 0.5}, {"top_k": 5, "score_threshold": 0.5}),
        ({"device": ["cuda:0", "cuda:1"]}, {"device": "cuda:0,cuda:1"}),
        ({"device": ComponentDevice.from_str("cpu")}, {"device": "cpu"}),
        ({"meta_fields_to_embed": ("a", "b")}, {"meta_fields_to_embed": ["a", "b"]}),
        ({"embedding_separator": " "}, {"embedding_separator": " "}),
        ({"metadata_fields": ("b", "a")}, {"metadata_fields": ["b", "a"]}),
        ({"metadata_fields": []}, {"metadata_fields": []}),
        ({**REMOTE, "timeout_s": 3.0}, {**REMOTE, "timeout_s": 3.0}),
        ({**REMOTE, "api_key_env": "MY_KEY"}, {**REMOTE, "api_key_env": "MY_KEY"}),
        (
            {**REMOTE, "api_key": Secret.from_env_var("MY_KEY")},
            {**REMOTE, "api_key": {"type": "env_var", "env_vars": ["MY_KEY"], "strict": True}},
        ),
        (
            {**REMOTE, "api_key": Secret.from_env_var(["A_KEY", "MY_KEY"], strict=False)},
            {**REMOTE, "api_key": {"type": "env_var", "env_vars": ["A_KEY", "MY_KEY"], "strict": False}},
        ),
    ],
)
def test_what_was_set_is_serialized_and_loaded_again(
    settings: dict[str, Any], written: dict[str, Any]
) -> None:
    ranker = QwenReranker(**settings)
    assert parameters(ranker) == written
    for again in (
        QwenReranker.from_dict(json.loads(json.dumps(ranker.to_dict()))),
        pickle.loads(pickle.dumps(ranker)),  # noqa: S301 (our own)
        copy.copy(ranker),
        copy.deepcopy(ranker),
    ):
        assert again is not ranker
        assert again.to_dict() == ranker.to_dict()
        assert again.config == ranker.config
        assert again.config.model_fields_set == ranker.config.model_fields_set


def test_a_round_trip_does_not_pick_up_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    written = QwenReranker(backend="lexical").to_dict()
    monkeypatch.setenv("QWEN_RERANK_TOP_N", "1")
    assert QwenReranker.from_dict(written).config.top_n is None


def test_a_dictionary_is_left_as_it_is() -> None:
    written = QwenReranker(**REMOTE, api_key=Secret.from_env_var("MY_KEY")).to_dict()
    before = copy.deepcopy(written)
    QwenReranker.from_dict(written)
    assert written == before


def test_a_dictionary_of_another_class_is_refused() -> None:
    with pytest.raises(DeserializationError):
        QwenReranker.from_dict({"type": "somewhere.Else", "init_parameters": {}})


def test_sections_of_other_parts_are_omitted() -> None:
    config = RerankConfig(backend="lexical", service={"api_keys": [SECRET]}, batch={"x": 1})
    assert parameters(QwenReranker(config=config)) == {"backend": "lexical"}


# Keys.


@pytest.mark.parametrize("key", [Secret.from_token(SECRET), SecretStr(SECRET)])
def test_a_key_that_was_passed_itself_is_used_and_never_serialized(key: Any) -> None:
    ranker = QwenReranker(**REMOTE, api_key=key)
    assert key_of(ranker) == SECRET
    assert key_of(copy.deepcopy(ranker)) == SECRET
    with pytest.raises(ValueError, match="Cannot serialize token-based secret"):
        ranker.to_dict()
    with pytest.raises(ValueError, match="Cannot serialize token-based secret"):
        pickle.dumps(ranker)
    with pytest.raises(ValueError, match="Cannot serialize token-based secret"):
        QwenReranker(config=ranker.config).to_dict()


def test_a_key_is_shown_nowhere() -> None:
    ranker = QwenReranker(**REMOTE, api_key=Secret.from_token(SECRET))
    shown = [repr(ranker), str(ranker), repr(ranker.config), str(ranker._reranker), repr(vars(ranker))]
    assert [text for text in shown if SECRET in text] == []


def test_a_named_key_is_read_when_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipeline can be written, read and validated on a machine without the key."""
    monkeypatch.delenv("MY_KEY", raising=False)
    ranker = QwenReranker(**REMOTE, api_key=Secret.from_env_var("MY_KEY"))
    assert ranker.config.api_key_env == "MY_KEY"
    monkeypatch.setenv("MY_KEY", SECRET)
    assert SECRET not in str(ranker.to_dict())
    assert SECRET.encode() not in pickle.dumps(ranker)


@pytest.mark.parametrize(
    ("held", "strict", "expected"),
    [
        ({"B_KEY": "b"}, True, "B_KEY"),
        ({"A_KEY": "a", "B_KEY": "b"}, True, "A_KEY"),
        ({}, True, "A_KEY"),
        ({}, False, None),
        ({"B_KEY": "b"}, False, "B_KEY"),
    ],
)
def test_of_several_named_variables_the_first_that_is_set_is_taken(
    monkeypatch: pytest.MonkeyPatch, held: dict[str, str], expected: str | None, *, strict: bool
) -> None:
    for name in ("A_KEY", "B_KEY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in held.items():
        monkeypatch.setenv(name, value)
    secret = Secret.from_env_var(["A_KEY", "B_KEY"], strict=strict)
    ranker = QwenReranker(config=RerankConfig(**REMOTE, api_key_file="elsewhere"), api_key=secret)
    assert (ranker.config.api_key_env, ranker.config.api_key) == (expected, None)
    assert ranker.config.api_key_file is None, "one way to a key replaces another"


def test_a_secret_can_come_with_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rerank.yaml"
    path.write_text("backend: remote\nbase_url: http://127.0.0.1:9\n")
    ranker = QwenReranker.from_config(path, api_key=Secret.from_env_var("MY_KEY"))
    assert parameters(ranker)["api_key"]["env_vars"] == ["MY_KEY"]


# Copies.


def test_a_copy_changes_settings_and_checks_them() -> None:
    secret = Secret.from_env_var("MY_KEY")
    ranker = QwenReranker(**REMOTE, api_key=secret, top_k=3, meta_fields_to_embed=["title"])
    changed = ranker.replace(top_k=1)
    assert (changed.config.top_n, ranker.config.top_n) == (1, 3)
    assert changed.meta_fields_to_embed == ("title",)
    assert parameters(changed)["api_key"] == secret.to_dict()
    assert ranker.replace(meta_fields_to_embed=None).meta_fields_to_embed == ()
    with pytest.raises(ConfigurationError, match="topn"):
        ranker.replace(topn=1)


def test_a_copy_works_on_when_the_original_is_closed() -> None:
    ranker = QwenReranker(backend="lexical", top_k=1)
    other = copy.deepcopy(ranker)
    ranker.close()
    assert ids(other.run("a", some_documents("a", "b"))["documents"]) == ["d0"]


def test_a_borrowed_reranker_is_copied_by_reference_and_never_serialized() -> None:
    scorer = FakeScorer()
    ranker = QwenReranker(reranker=Reranker(scorer=scorer, top_n=1), embedding_separator=" ")
    again = copy.deepcopy(ranker)
    assert ids(again.run("q", some_documents("0.1", "0.3"))["documents"]) == ["d1"]
    assert (again.embedding_separator, len(scorer.calls)) == (" ", 1)
    with pytest.raises(TypeError, match="a reranker that was passed in and cannot be serialized"):
        ranker.to_dict()
    with pytest.raises(TypeError, match="a reranker that was passed in and cannot be pickled"):
        pickle.dumps(ranker)
    with pytest.raises(ConfigurationError, match="passed together with settings"):
        ranker.replace(top_k=3)
