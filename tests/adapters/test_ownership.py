from __future__ import annotations

import asyncio
import copy
import json
import pickle
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from qwen_rerank_plugins import ClosedError, ConfigurationError, RerankConfig, Reranker
from qwen_rerank_plugins.adapters import (
    API_KEY_VARIABLE,
    OwnsReranker,
    explicit_settings,
    resolve_reranker,
)
from tests.doubles import FakeScorer

MASK = "**********"
REMOTE: dict[str, Any] = {"backend": "remote", "base_url": "http://127.0.0.1:9"}


class Wrapper(OwnsReranker):
    """The smallest wrapper."""

    def __init__(
        self, *, config: Any = None, reranker: Any = None, label: str = "none", **settings: Any
    ) -> None:
        super().__init__(config=config, reranker=reranker, **settings)
        self.label = label

    @classmethod
    def own_parameters(cls) -> Collection[str]:
        return ("label",)

    def own_settings(self) -> dict[str, Any]:
        return {"label": self.label} if self.label != "none" else {}


def key_of(reranker: Reranker) -> str | None:
    key = reranker.config.api_key
    return None if key is None else key.get_secret_value()


# Which reranker.


def test_settings_go_over_the_configuration_and_nothing_is_read_from_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("QWEN_RERANK_TOP_N", "7")
    config = RerankConfig(model="demo", top_n=3)
    assert resolve_reranker(None, None, {}).config == RerankConfig()
    assert resolve_reranker(config, None, {}).config == config
    assert resolve_reranker(config, None, {"top_n": 4}).config == RerankConfig(model="demo", top_n=4)
    assert config.top_n == 3


def test_the_engine_is_the_one_that_the_process_shares() -> None:
    assert resolve_reranker(None, None, {"backend": "lexical"})._share_engine


def test_a_ready_reranker_is_returned() -> None:
    ready = Reranker(scorer=FakeScorer())
    assert resolve_reranker(None, ready, {}) is ready


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((None, None, {"tpo_n": 1}), "unknown setting 'tpo_n' (argument); did you mean 'top_n'?"),
        (
            ("demo", None, {}),
            "config has the wrong type: 'demo'. Pass a RerankConfig. To choose a model, pass its name as model=",
        ),
        (
            ({"model": "demo"}, None, {"top_n": 1}),
            "config has the wrong type: {'model': 'demo'}. Pass a R",
        ),
        ((None, 3, {}), "reranker has the wrong type: 3. Pass a Reranker."),
        ((None, "demo", {}), "reranker has the wrong type: 'demo'. Pass a Reranker. To choose a model"),
        (
            (RerankConfig(), Reranker(), {"top_n": 1}),
            "a ready reranker was passed together with settings: 'config', 'top_n'. Set them on the reranker",
        ),
    ],
)
def test_what_cannot_be_followed_is_refused(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        resolve_reranker(*arguments)
    assert str(caught.value).startswith(message)


# Serialized settings.


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"model": "demo", "top_n": None},
        {"device": "cuda:0,cuda:1", "min_score": 0.5},
        {**REMOTE, "api_key_env": "MY_KEY", "timeout_s": 3.5},
    ],
)
def test_explicit_settings_are_those_that_were_set_and_make_an_equal_configuration(
    settings: dict[str, Any],
) -> None:
    config = RerankConfig(**settings)
    written = json.loads(json.dumps(explicit_settings(config)))
    assert written == settings
    again = resolve_reranker(None, None, written).config
    assert again == config
    assert again.model_fields_set == config.model_fields_set


def test_sections_of_other_parts_are_omitted() -> None:
    config = RerankConfig(top_n=1, service={"x": "hush"}, opensearch={"x": "hush"}, batch={"x": 1})
    assert explicit_settings(config) == {"top_n": 1}


@pytest.mark.parametrize("mask", [MASK, SecretStr(MASK), "*"])
def test_a_masked_key_is_read_again(monkeypatch: pytest.MonkeyPatch, mask: Any) -> None:
    settings = {**REMOTE, "api_key": mask}
    monkeypatch.delenv(API_KEY_VARIABLE, raising=False)
    with pytest.raises(ConfigurationError, match=rf"api_key is a mask.*{API_KEY_VARIABLE}"):
        resolve_reranker(None, None, settings)
    monkeypatch.setenv(API_KEY_VARIABLE, " another ")
    assert key_of(resolve_reranker(None, None, settings)) == "another"
    assert settings["api_key"] is mask, "the caller's settings were changed"


def test_a_key_is_written_as_a_mask_and_used_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(API_KEY_VARIABLE, "another")
    reranker = resolve_reranker(None, None, {**REMOTE, "api_key": SecretStr("mine")})
    assert key_of(reranker) == "mine"
    assert explicit_settings(reranker.config)["api_key"] == MASK


# What wrappers share.


def test_arguments_beat_the_environment_which_beats_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rerank.yaml"
    path.write_text("backend: lexical\ntop_n: 1\nmin_score: 0.1\ninstruction: file\n")
    monkeypatch.setenv("QWEN_RERANK_TOP_N", "2")
    monkeypatch.setenv("QWEN_RERANK_MIN_SCORE", "0.2")
    wanted = RerankConfig(backend="lexical", top_n=3, min_score=0.2, instruction="file")
    made = Wrapper.from_config(path, top_n=3, label="mine")
    assert (type(made), made._reranker.config, made.label) == (Wrapper, wanted, "mine")
    monkeypatch.setenv("QWEN_RERANK_CONFIG", str(path))
    assert Wrapper.from_env(top_n=3)._reranker.config == wanted
    with pytest.raises(ConfigurationError, match="unknown setting 'config'"):
        Wrapper.from_env(config=RerankConfig())


def test_own_keywords_are_split_from_settings() -> None:
    keywords = {"label": "mine", "top_n": 3}
    assert Wrapper.split_parameters(keywords) == ({"label": "mine"}, {"top_n": 3})
    assert OwnsReranker.split_parameters(keywords) == ({}, keywords)


@pytest.mark.parametrize("how", ["close", "with", "aclose", "async with"])
def test_every_way_of_closing_releases_what_is_its_own(how: str) -> None:
    async def later(one: Wrapper) -> None:
        if how == "aclose":
            await one.aclose()
            return
        async with one as entered:
            assert entered is one

    def close(one: Wrapper) -> None:
        if how == "close":
            one.close()
        elif how == "with":
            with one as entered:
                assert entered is one
        else:
            asyncio.run(later(one))

    own = Wrapper(backend="lexical")
    close(own)
    with pytest.raises(ClosedError):
        own._reranker.rank("a", ["a"])
    borrowed = Reranker(backend="lexical")
    close(Wrapper(reranker=borrowed))
    assert borrowed.rank("a", ["a"]).status == "ranked"


def test_only_a_borrowed_reranker_is_refused_for_serialization() -> None:
    Wrapper(backend="lexical").refuse_if_borrowed("pickled")
    message = r"^Wrapper uses a reranker that was passed in and cannot be pickled\. Create it from settings"
    with pytest.raises(TypeError, match=message):
        Wrapper(reranker=Reranker()).refuse_if_borrowed("pickled")


def pickled(wrapper: Wrapper) -> Any:
    return pickle.loads(pickle.dumps(wrapper))  # noqa: S301 (our own)


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickled, Wrapper.replace])
def test_a_copy_has_the_same_settings_and_its_own_end(duplicate: Any) -> None:
    wrapper = Wrapper(backend="lexical", top_n=1, label="mine")
    copied = duplicate(wrapper)
    wrapper.close()
    assert (type(copied), copied.label, copied.config) == (Wrapper, "mine", wrapper.config)
    assert copied.config.model_fields_set == {"backend", "top_n"}
    assert len(copied._reranker.rank("a", ["a", "b"]).results) == 1


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, Wrapper.replace])
def test_a_copy_borrows_the_same_reranker_and_a_pickle_is_refused(duplicate: Any) -> None:
    wrapper = Wrapper(reranker=Reranker(scorer=FakeScorer()), label="mine")
    copied = duplicate(wrapper)
    assert (copied._reranker, copied.label) == (wrapper._reranker, "mine")
    copied.close()
    assert wrapper._reranker.rank("q", ["0.5"]).status == "ranked"
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(wrapper)


def test_a_replaced_setting_is_checked_and_belongs_to_the_copy() -> None:
    wrapper = Wrapper(backend="lexical", top_n=1, label="mine")
    changed = wrapper.replace(top_n=2, label="yours")
    assert (changed.config.top_n, changed.label) == (2, "yours")
    assert (wrapper.config.top_n, wrapper.label) == (1, "mine")
    for changes in ({"tpo_n": 2}, {"config": RerankConfig()}, {"reranker": Reranker()}):
        with pytest.raises(ConfigurationError, match=f"unknown setting {next(iter(changes))!r}"):
            wrapper.replace(**changes)
    with pytest.raises(ConfigurationError, match="passed together with settings: 'top_n'"):
        Wrapper(reranker=Reranker()).replace(top_n=2)


def test_the_repr_shows_what_differs_from_the_defaults_and_no_key() -> None:
    assert repr(Wrapper()) == str(Wrapper()) == "Wrapper()"
    assert repr(Wrapper(backend="local", top_n=3, label="mine")) == "Wrapper(top_n=3, label='mine')"
    assert "sesame" not in repr(Wrapper(**REMOTE, api_key=SecretStr("sesame")))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"model": "demo"}, True),
        ({}, False),
        ({"model": "demo", **REMOTE}, False),
        ({"model": "demo", "backend": "lexical"}, False),
    ],
)
def test_one_property_says_whether_the_demo_model_scores(settings: dict[str, Any], *, expected: bool) -> None:
    assert RerankConfig(**settings).is_demo is expected
