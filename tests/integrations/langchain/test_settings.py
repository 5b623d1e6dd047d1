from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_qwen_rerank import QwenCrossEncoder, QwenRerank

from qwen_rerank_plugins import ConfigurationError, InputError, RerankConfig, Reranker
from tests.doubles import FakeScorer

SECRET = "sesame-open"
REMOTE: dict[str, Any] = {"backend": "remote", "base_url": "http://gpu-machine:8501"}


def _read(pickled: bytes) -> Any:
    return pickle.loads(pickled)  # noqa: S301 (written in this very test)


# The base package's settings, by their own names.


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model", "demo"),
        ("top_n", 3),
        ("min_score", 0.5),
        ("instruction", "x"),
        ("device", "cpu"),
        ("dtype", "float32"),
    ],
)
def test_a_setting_has_the_name_that_the_base_package_gives_it(name: str, value: Any) -> None:
    assert QwenRerank(**{name: value}).config == RerankConfig(**{name: value})
    assert QwenCrossEncoder(**{name: value}).config == RerankConfig(**{name: value})


def test_keywords_beat_the_configuration_that_is_passed() -> None:
    config = RerankConfig(model="demo", top_n=5)
    assert QwenRerank(config=config, top_n=2).config == RerankConfig(model="demo", top_n=2)
    assert config.top_n == 5


@pytest.mark.parametrize("kind", [QwenRerank, QwenCrossEncoder])
def test_an_unknown_setting_is_refused_with_the_nearest_one(kind: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"unknown setting 'tpo_n'.*did you mean 'top_n'"):
        kind(tpo_n=3)


def test_a_wrong_setting_is_refused_with_its_value() -> None:
    with pytest.raises(ConfigurationError, match="`min_score` must be at most 1, got 2"):
        QwenRerank(min_score=2)
    with pytest.raises(ConfigurationError, match=r"metadata_fields is not valid: 'title'\. Pass a list"):
        QwenRerank(metadata_fields="title")


@pytest.mark.parametrize("kind", [QwenRerank, QwenCrossEncoder])
def test_a_scorer_is_no_setting(kind: Any) -> None:
    """It would be lost on the way through a pickle; a ready reranker holds one."""
    with pytest.raises(ConfigurationError, match="unknown setting 'scorer'"):
        kind(scorer=FakeScorer())
    with pytest.raises(ConfigurationError, match="config has the wrong type: 'demo'"):
        kind(config="demo", top_n=3)


def test_settings_are_keywords() -> None:
    with pytest.raises(TypeError):
        QwenRerank("demo")  # type: ignore[call-arg, arg-type]


@pytest.mark.parametrize("kind", [QwenRerank, QwenCrossEncoder])
def test_a_ready_reranker_takes_no_settings_beside_it(kind: Any) -> None:
    reranker = Reranker(scorer=FakeScorer())
    with pytest.raises(ConfigurationError, match="passed together with settings: 'config', 'top_n'"):
        kind(reranker=reranker, config=RerankConfig(), top_n=3)
    with pytest.raises(ConfigurationError, match="pass its name as model="):
        kind(reranker="Qwen/Qwen3-Reranker-0.6B")


def test_creating_one_reads_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QWEN_RERANK_TOP_N", "3")
    assert QwenRerank().config.top_n is None
    assert QwenCrossEncoder().config.top_n is None


@pytest.mark.parametrize("kind", [QwenRerank, QwenCrossEncoder])
def test_arguments_beat_the_environment_which_beats_the_file(
    kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rerank.yaml"
    path.write_text("backend: lexical\ntop_n: 1\nmin_score: 0.1\ninstruction: file\n")
    monkeypatch.setenv("QWEN_RERANK_TOP_N", "2")
    monkeypatch.setenv("QWEN_RERANK_MIN_SCORE", "0.2")
    wanted = RerankConfig(backend="lexical", top_n=3, min_score=0.2, instruction="file")
    assert kind.from_config(path, top_n=3).config == wanted
    monkeypatch.setenv("QWEN_RERANK_CONFIG", str(path))
    assert kind.from_env(top_n=3).config == wanted


def test_own_fields_may_come_with_a_file(tmp_path: Path) -> None:
    path = tmp_path / "rerank.toml"
    path.write_text('model = "demo"\n')
    compressor = QwenRerank.from_config(path, metadata_fields=["title"])
    assert (compressor.config.model, compressor.metadata_fields) == ("demo", ("title",))
    assert QwenRerank.from_env(metadata_fields=["title"]).metadata_fields == ("title",)


def test_settings_cannot_be_changed_in_place() -> None:
    compressor = QwenRerank()
    with pytest.raises(ValueError, match="frozen"):
        compressor.metadata_fields = ("title",)


# Copies.


def test_a_copy_with_changes_leaves_the_original() -> None:
    compressor = QwenRerank(model="demo", metadata_fields=["title"])
    changed = compressor.replace(top_n=3)
    assert (changed.config, changed.metadata_fields) == (RerankConfig(model="demo", top_n=3), ("title",))
    assert compressor.config.top_n is None
    assert compressor.model_copy(update={"top_n": 3}) == changed
    assert compressor.replace(metadata_fields=[]).metadata_fields == ()


def test_a_copy_checks_what_is_changed() -> None:
    with pytest.raises(ConfigurationError, match="did you mean 'top_n'"):
        QwenRerank().model_copy(update={"tpo_n": 3})
    with pytest.raises(ConfigurationError, match="unknown setting 'config'"):
        QwenRerank().replace(config=RerankConfig())
    with pytest.raises(ConfigurationError, match="passed together with settings"):
        QwenRerank(reranker=Reranker(scorer=FakeScorer())).replace(top_n=3)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda one: one.model_copy(deep=True)])
def test_a_copy_works_on_when_the_original_is_closed(copied: Any) -> None:
    compressor = QwenRerank(backend="lexical", top_n=1)
    compressor.compress_documents([Document("a")], "a")
    other = copied(compressor)
    compressor.close()
    assert other == compressor
    assert len(other.compress_documents([Document("a"), Document("b")], "a")) == 1


def test_a_copy_keeps_the_reranker_that_was_passed_in() -> None:
    scorer = FakeScorer()
    compressor = QwenRerank(reranker=Reranker(scorer=scorer), metadata_fields=["title"])
    for other in (copy.deepcopy(compressor), compressor.replace(metadata_fields=["title"])):
        assert other == compressor
        other.compress_documents([Document("0.5")], "q")
    assert len(scorer.calls) == 2
    assert compressor != QwenRerank(metadata_fields=["title"])


def test_a_deep_copy_keeps_the_key() -> None:
    copied = copy.deepcopy(QwenRerank(**REMOTE, api_key=SECRET))
    assert copied.config.api_key is not None
    assert copied.config.api_key.get_secret_value() == SECRET


def test_a_subclass_with_fields_of_its_own_keeps_them() -> None:
    class Named(QwenRerank):
        label: str = "none"

    settings: dict[str, Any] = {"backend": "lexical", "label": "mine"}
    compressor = Named(**settings)
    assert (compressor.label, compressor.config.backend) == ("mine", "lexical")
    assert compressor.replace(top_n=2).label == "mine"
    assert compressor.replace(label="other").label == "other"
    assert Named(**compressor.model_dump()) == compressor


# Written forms.


def test_a_dump_holds_what_was_set_and_nothing_else() -> None:
    assert QwenRerank().model_dump() == {}
    compressor = QwenRerank(model="demo", top_n=5, metadata_fields=["title"])
    assert compressor.model_dump() == {"model": "demo", "top_n": 5, "metadata_fields": ("title",)}
    assert json.loads(compressor.model_dump_json()) == {
        "model": "demo",
        "top_n": 5,
        "metadata_fields": ["title"],
    }


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"model": "demo", "top_n": None},
        {"metadata_fields": ["title", "year"], "min_score": 0.25},
        {**REMOTE, "api_key_env": "MY_KEY", "dialect": "cohere", "timeout_s": 3.5},
    ],
)
def test_serialized_settings_create_an_equal_compressor(settings: dict[str, Any]) -> None:
    compressor = QwenRerank(**settings)
    assert QwenRerank(**compressor.model_dump()) == compressor
    assert QwenRerank(**json.loads(compressor.model_dump_json())) == compressor
    assert QwenRerank.model_validate(compressor.model_dump()) == compressor
    assert QwenRerank.model_validate_json(compressor.model_dump_json()) == compressor
    assert _read(pickle.dumps(compressor)) == compressor


def test_what_was_set_stays_set_through_a_pickle(monkeypatch: pytest.MonkeyPatch) -> None:
    """A default that changes in a later version must not change a value that was set, and an unset value follows the default."""
    compressor = _read(pickle.dumps(QwenRerank(top_n=None, model="demo")))
    assert compressor.config.model_fields_set == {"top_n", "model"}


def test_a_pickle_ignores_the_environment_where_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    pickled = pickle.dumps(QwenRerank(model="demo"))
    monkeypatch.setenv("QWEN_RERANK_TOP_N", "3")
    assert _read(pickled).config == RerankConfig(model="demo")


def test_a_cross_encoder_goes_through_pickles_and_copies() -> None:
    encoder = QwenCrossEncoder(model="demo", instruction="x")
    for other in (_read(pickle.dumps(encoder)), copy.deepcopy(encoder)):
        assert other.config == encoder.config
    assert repr(encoder) == "QwenCrossEncoder(model='demo', instruction='x')"


@pytest.mark.parametrize("kind", [QwenRerank, QwenCrossEncoder])
def test_a_ready_reranker_is_not_pickled(kind: Any) -> None:
    with pytest.raises(TypeError, match="a reranker that was passed in and cannot be pickled"):
        pickle.dumps(kind(reranker=Reranker(scorer=FakeScorer())))


def test_sections_of_other_parts_are_omitted(tmp_path: Path) -> None:
    path = tmp_path / "rerank.yaml"
    path.write_text("model: demo\nopensearch:\n  password: hush\n")
    assert QwenRerank.from_config(path).model_dump() == {"model": "demo"}


def test_the_repr_shows_what_differs_from_the_defaults() -> None:
    assert repr(QwenRerank()) == str(QwenRerank()) == "QwenRerank()"
    assert (
        repr(QwenRerank(model="demo", metadata_fields=["t"]))
        == "QwenRerank(model='demo', metadata_fields=('t',))"
    )


def test_equal_settings_are_equal_and_hash_alike() -> None:
    one, other = QwenRerank(model="demo"), QwenRerank(model="demo")
    assert (one, hash(one)) == (other, hash(other))
    assert one != QwenRerank(model="demo", top_n=1)
    assert one != "demo"


# Keys.


@pytest.mark.parametrize("kind", [QwenRerank, QwenCrossEncoder])
def test_a_key_is_shown_nowhere(kind: Any) -> None:
    one = kind(**REMOTE, api_key=SECRET)
    shown = [repr(one), str(one), repr(pickle.dumps(one))]
    if isinstance(one, QwenRerank):
        shown += [repr(one.model_dump()), one.model_dump_json(), repr(list(one))]
    assert [text for text in shown if SECRET in text] == []


@pytest.mark.parametrize("kind", [QwenRerank, QwenCrossEncoder])
def test_a_masked_key_is_read_again_from_the_environment(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pickled = pickle.dumps(kind(**REMOTE, api_key=SECRET))
    monkeypatch.setenv("QWEN_RERANK_API_KEY", "another")
    key = _read(pickled).config.api_key
    assert key is not None
    assert key.get_secret_value() == "another"


def test_a_masked_key_without_a_variable_is_an_error() -> None:
    written = QwenRerank(**REMOTE, api_key=SECRET).model_dump()
    with pytest.raises(ConfigurationError, match=r"api_key is a mask.*QWEN_RERANK_API_KEY"):
        QwenRerank(**written)


def test_the_location_of_a_key_is_serialized_and_the_key_read_on_use(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MY_KEY", SECRET)
    compressor = QwenRerank(**REMOTE, api_key_env="MY_KEY")
    assert compressor.model_dump()["api_key_env"] == "MY_KEY"
    assert SECRET not in repr(pickle.dumps(compressor))


def test_errors_of_the_base_package_are_value_errors() -> None:
    with pytest.raises(ValueError, match="blank"):
        QwenRerank(backend="lexical").compress_documents([Document("a")], "")
    assert issubclass(InputError, ValueError)
