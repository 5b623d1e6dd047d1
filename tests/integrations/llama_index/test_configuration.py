from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from llama_index.core.callbacks import CallbackManager
from llama_index.core.schema import MetadataMode
from llama_index.postprocessor.qwen_rerank import QwenRerank
from pydantic import SecretStr, ValidationError

from qwen_rerank_plugins import ConfigurationError, RerankConfig, Reranker
from tests.doubles import FakeScorer
from tests.integrations.llama_index.nodes import ids, some_nodes

SECRET = "sk-very-secret"
REMOTE: dict[str, Any] = {"backend": "remote", "base_url": "http://127.0.0.1:9"}


# Where settings come from.


def test_every_setting_of_the_base_is_a_keyword_of_the_same_name() -> None:
    values: dict[str, Any] = {
        "model": "demo",
        "device": "cpu",
        "dtype": "float32",
        "max_length": 512,
        "max_batch_tokens": 2048,
        "instruction": "find it",
        "top_n": 5,
        "min_score": 0.25,
        "on_error": "keep_order",
    }
    assert QwenRerank(**values).config == RerankConfig(**values)
    assert QwenRerank().config == RerankConfig()


def test_keywords_go_over_a_given_configuration() -> None:
    reranker = QwenRerank(config=RerankConfig(model="demo", top_n=3), top_n=4)
    assert (reranker.config, reranker.top_n) == (RerankConfig(model="demo", top_n=4), 4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"topn": 5}, "unknown setting 'topn'.*top_n"),
        ({"modle": "demo"}, "model"),
        ({"trust_remote_code": True}, "unknown setting 'trust_remote_code'"),
        ({"scorer": FakeScorer()}, "unknown setting 'scorer'"),
        ({"top_n": 0}, "`top_n` must be at least 1, got 0"),
        ({"config": {"model": "demo"}}, "config has the wrong type"),
        ({"config": "demo"}, "config has the wrong type: 'demo'.*model=..."),
        ({"reranker": "demo"}, "reranker has the wrong type: 'demo'"),
        (
            {"metadata_mode": "some"},
            "metadata_mode is not valid: 'some'. Input should be 'all', 'embed', 'llm' or 'none'",
        ),
        ({"metadata_mode": []}, "metadata_mode is not valid: "),
        ({"metadata_fields": "title"}, "metadata_fields is not valid: 'title'. Pass a list"),
        ({"metadata_fields": ["a"], "metadata_mode": "llm"}, "exclude each other"),
        ({"reranker": Reranker(), "top_n": 2}, "passed together with settings: 'top_n'"),
        ({"reranker": Reranker(), "config": RerankConfig()}, "passed together with settings: 'config'"),
    ],
)
def test_an_unknown_or_wrong_setting_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        QwenRerank(**settings)


def test_a_model_is_never_taken_for_a_number() -> None:
    with pytest.raises(TypeError, match="positional"):
        QwenRerank("demo")  # type: ignore[call-arg,arg-type]


def test_an_attribute_that_does_not_exist_cannot_be_assigned() -> None:
    reranker = QwenRerank(backend="lexical")
    for name, error in (
        ("topn", ValueError),
        ("config", AttributeError),
        ("metadata_mode", ValidationError),
        ("metadata_fields", ValidationError),
    ):
        with pytest.raises(error, match=name):
            setattr(reranker, name, None)


def test_a_file_and_the_environment_configure_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rerank.yaml"
    path.write_text("backend: lexical\ntop_n: 4\ninstruction: from the file\n")
    monkeypatch.setenv("QWEN_RERANK_TOP_N", "2")
    reranker = QwenRerank.from_config(path, metadata_mode="llm")
    assert (reranker.top_n, reranker.config.instruction) == (2, "from the file")
    assert reranker.metadata_mode is MetadataMode.LLM
    assert QwenRerank.from_config(path, top_n=1).top_n == 1
    assert QwenRerank.from_env().config == RerankConfig(top_n=2)
    monkeypatch.setenv("QWEN_RERANK_CONFIG", str(path))
    assert QwenRerank.from_env(metadata_fields=["title"]).config.backend == "lexical"
    assert QwenRerank(backend="lexical").top_n is None, "the constructor reads no environment"


def test_a_wrong_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rerank.toml"
    path.write_text('modle = "demo"\n')
    with pytest.raises(ConfigurationError, match=r"modle.*model"):
        QwenRerank.from_config(path)
    with pytest.raises(ConfigurationError, match="unknown setting 'config'"):
        QwenRerank.from_env(config=RerankConfig())


def test_nothing_is_loaded_before_the_first_list(tmp_path: Path) -> None:
    reranker = QwenRerank(model=str(tmp_path / "no such folder"))
    assert reranker.postprocess_nodes([], query_str="q") == []
    assert reranker.model == str(tmp_path / "no such folder")


# Copies and what is written down.


@pytest.mark.parametrize(
    ("settings", "written"),
    [
        ({}, {}),
        ({"top_n": None, "enabled": True}, {"top_n": None, "enabled": True}),
        (
            {"model": "demo", "top_n": 5, "device": ["cuda:0", "cuda:1"]},
            {"model": "demo", "top_n": 5, "device": "cuda:0,cuda:1"},
        ),
        ({"metadata_mode": MetadataMode.NONE}, {"metadata_mode": "none"}),
        ({"metadata_fields": ("a", "b")}, {"metadata_fields": ["a", "b"]}),
        (
            {**REMOTE, "timeout_s": 3.0, "api_key_env": "MY_KEY"},
            {**REMOTE, "timeout_s": 3.0, "api_key_env": "MY_KEY"},
        ),
    ],
)
def test_what_was_set_is_serialized_flat_and_loaded_again(
    settings: dict[str, Any], written: dict[str, Any]
) -> None:
    reranker = QwenRerank(**settings)
    assert reranker.to_dict() == {**written, "class_name": "QwenRerank"}
    assert json.loads(reranker.to_json()) == reranker.to_dict()
    assert json.loads(reranker.model_dump_json()) == reranker.to_dict()
    for again in (
        QwenRerank.from_dict(reranker.to_dict()),
        QwenRerank.from_json(reranker.to_json()),
        pickle.loads(pickle.dumps(reranker)),  # noqa: S301 (our own)
        copy.copy(reranker),
        copy.deepcopy(reranker),
        reranker.model_copy(),
    ):
        assert again is not reranker
        assert again.to_dict() == reranker.to_dict()
        assert again.config == reranker.config
        assert again.config.model_fields_set == reranker.config.model_fields_set


def test_a_round_trip_does_not_pick_up_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    written = QwenRerank(backend="lexical").to_json()
    monkeypatch.setenv("QWEN_RERANK_TOP_N", "1")
    assert QwenRerank.from_json(written).top_n is None


def test_a_dictionary_is_read_with_changes_and_left_as_it_is() -> None:
    written = QwenRerank(backend="lexical", top_n=3).to_dict()
    before = dict(written)
    assert QwenRerank.from_dict(written, top_n=1).top_n == 1
    assert written == before


def test_a_key_is_masked_in_every_serialized_form() -> None:
    reranker = QwenRerank(**REMOTE, api_key=SecretStr(SECRET))
    forms = [str(reranker.to_dict()), reranker.to_json(), repr(reranker), str(reranker), str(reranker.config)]
    assert [form for form in forms if SECRET in form] == []
    assert SECRET.encode() not in pickle.dumps(reranker)
    assert reranker.to_dict()["api_key"] == "**********"


def test_a_masked_key_is_read_again_when_it_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    reranker = QwenRerank(**REMOTE, api_key=SecretStr(SECRET))
    written, pickled = reranker.to_json(), pickle.dumps(reranker)
    for load in (lambda: QwenRerank.from_json(written), lambda: pickle.loads(pickled)):  # noqa: S301 (our own)
        with pytest.raises(ConfigurationError, match=r"api_key is a mask.*QWEN_RERANK_API_KEY"):
            load()
        with monkeypatch.context() as patch:
            patch.setenv("QWEN_RERANK_API_KEY", "another")
            key = load().config.api_key
        assert key is not None
        assert key.get_secret_value() == "another"
    given = QwenRerank.from_json(written, api_key=SecretStr("third")).config.api_key
    assert given is not None
    assert given.get_secret_value() == "third"


def test_copies_in_the_process_keep_the_key() -> None:
    reranker = QwenRerank(**REMOTE, api_key=SecretStr(SECRET))
    for again in (copy.deepcopy(reranker), copy.copy(reranker), reranker.replace(top_n=2)):
        assert again.config.api_key == reranker.config.api_key


def test_sections_of_other_parts_are_omitted() -> None:
    config = RerankConfig(backend="lexical", service={"api_keys": [SECRET]}, batch={"x": 1})
    assert QwenRerank(config=config).to_dict() == {"backend": "lexical", "class_name": "QwenRerank"}


def test_a_copy_changes_settings_and_checks_them() -> None:
    manager = CallbackManager()
    reranker = QwenRerank(backend="lexical", top_n=3, callback_manager=manager, metadata_mode="llm")
    changed = reranker.model_copy(update={"top_n": 1})
    assert (changed.top_n, reranker.top_n) == (1, 3)
    assert changed.metadata_mode is MetadataMode.LLM
    assert changed.callback_manager is manager
    with pytest.raises(ConfigurationError, match="topn"):
        reranker.model_copy(update={"topn": 1})
    assert len(changed.postprocess_nodes(some_nodes("a", "b"), query_str="a")) == 1


def test_a_borrowed_reranker_is_copied_by_reference_and_never_pickled() -> None:
    reranker = QwenRerank(reranker=Reranker(scorer=FakeScorer(), top_n=1))
    reranker.top_n = 2
    again = copy.deepcopy(reranker)
    assert ids(again.postprocess_nodes(some_nodes("0.1", "0.3", "0.2"), query_str="q")) == ["n1", "n2"]
    with pytest.raises(TypeError, match="a reranker that was passed in and cannot be pickled"):
        pickle.dumps(reranker)


def test_a_class_derived_from_it_keeps_its_own_fields() -> None:
    settings: dict[str, Any] = {"backend": "lexical", "top_n": 2, "shelf": "b"}
    reranker = Derived(**settings)
    assert reranker.to_dict() == {**settings, "class_name": "QwenRerank"}
    for again in (Derived.from_dict(reranker.to_dict()), copy.deepcopy(reranker)):
        assert (type(again), again.shelf, again.top_n) == (Derived, "b", 2)


class Derived(QwenRerank):
    shelf: str = "a"


def test_it_shows_what_was_set() -> None:
    reranker = QwenRerank(backend="lexical", top_n=2, metadata_mode="none")
    assert repr(reranker) == "QwenRerank(backend='lexical', top_n=2, metadata_mode='none')"
