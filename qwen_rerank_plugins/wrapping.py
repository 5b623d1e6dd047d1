"""What a wrapper of a framework needs beside `Reranker`: which one it holds, what it writes down, when it is closed.

The wrappers for LangChain, LlamaIndex and Haystack stand on this, and so may yours. A wrapper

- takes `config`, `reranker` and settings as keywords, and gives them to `choose_reranker`;
- derives from `HoldsReranker`, which closes, and reads files and the environment;
- writes down `explicit_settings`, as keywords for itself;
- writes into a document's metadata what `ranked_metadata` or `unranked_metadata` gives, if its documents have some.

Nothing here knows a framework, its documents or its serialisation.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from typing import Any, Self

from pydantic import SecretStr

from qwen_rerank_plugins.closing import CloseMixin
from qwen_rerank_plugins.config import SECTIONS, RerankConfig, load_config
from qwen_rerank_plugins.errors import ConfigurationError
from qwen_rerank_plugins.reranker import Reranker
from qwen_rerank_plugins.types import RankedDocument, RerankResult

__all__ = [
    "FIRST_STAGE_SCORE",
    "KEY_VARIABLE",
    "HoldsReranker",
    "choose_reranker",
    "explicit_settings",
    "ranked_metadata",
    "unranked_metadata",
]

KEY_VARIABLE = "QWEN_RERANK_API_KEY"
"""Where a masked key is read again: the package's own variable of the setting."""

FIRST_STAGE_SCORE = "first_stage_score"
"""Where a document's metadata keep the first score that it ever came with."""

LOG_ODDS = "rerank_log_odds"
TRUNCATED = "rerank_truncated"
QUERY_TRUNCATED = "rerank_query_truncated"
PASSAGE = "rerank_passage"
PASSAGE_SPAN = "rerank_passage_span"
STATUS = "rerank_status"
ERROR = "rerank_error"

_OF_ONE_CALL = (LOG_ODDS, TRUNCATED, QUERY_TRUNCATED, PASSAGE, PASSAGE_SPAN, STATUS, ERROR)


def choose_reranker(config: object, reranker: object, settings: Mapping[str, Any]) -> Reranker:
    """Give the reranker that was passed in, else one over the engine that the process shares; nothing is loaded yet.

    Args:
        config: Settings to start from; None for the defaults.
        reranker: A ready reranker in place of settings; None for one that follows them.
        settings: Fields of `RerankConfig`, over those of `config`. A mask in place of `api_key`, as
            `explicit_settings` writes it, is replaced by the key that the environment holds.

    Raises:
        ConfigurationError: A setting is unknown or wrong, something has the wrong type, a masked key is not to be
            had, or settings came with a ready reranker, which would not follow them.
    """
    if reranker is not None:
        return _ready(reranker, config, settings)
    chosen = RerankConfig() if config is None else config
    if not isinstance(chosen, RerankConfig):
        raise _wrong_kind("config", chosen, RerankConfig)
    return Reranker.shared(chosen.replace(**_with_key_read_again(settings)) if settings else chosen)


def explicit_settings(config: RerankConfig) -> dict[str, Any]:
    """Give the settings that were set, not those left at their defaults, as plain JSON types; a key is masked.

    Passed to a wrapper again they make an equal one. Sections of other parts of the package are left out: they mean
    nothing to a wrapper, and may hold secrets.
    """
    return config.model_dump(mode="json", exclude_unset=True, exclude=set(SECTIONS))


def ranked_metadata(
    metadata: Mapping[str, Any], ranked: RankedDocument, content: str, offset: int
) -> dict[str, Any]:
    """Give a document's metadata with what a ranking tells of it, in place of what an earlier call told.

    Args:
        metadata: What the document came with; not changed.
        ranked: The document's place in the ranking.
        content: The document's own text.
        offset: Characters that stood before it in the text that was scored.
    """
    told = _without_an_earlier_call(metadata)
    if ranked.log_odds is not None:
        told[LOG_ODDS] = ranked.log_odds
    if ranked.truncated:
        told[TRUNCATED] = True
    if ranked.query_truncated:
        told[QUERY_TRUNCATED] = True
    return told | _passage(content, ranked, offset)


def unranked_metadata(metadata: Mapping[str, Any], result: RerankResult) -> dict[str, Any]:
    """Give the metadata of a document that was not scored: what it came with, and a mark that says why."""
    told = {**_without_an_earlier_call(metadata), STATUS: result.status}
    return told if result.error is None else {**told, ERROR: result.error}


class HoldsReranker(CloseMixin):
    """What wrappers do alike with the reranker that they hold; to derive from, beside the framework's own class.

    A derived class sets `_reranker` and `_is_lent` when it is created, takes `config` and settings as keywords, and
    names the keywords that are its own in `own_parameters`. A wrapper is a context manager, both kinds.
    """

    _reranker: Reranker
    _is_lent: bool  # passed in: the caller's to close, and never written down

    @classmethod
    def own_parameters(cls) -> Collection[str]:
        """The keywords of the class that are no fields of `RerankConfig`."""
        return ()

    @classmethod
    def from_config(cls, path: str | os.PathLike[str], **overrides: Any) -> Self:
        """Create one from a YAML or TOML file, over which the environment and then `overrides` go.

        Raises:
            ConfigurationError: A source holds an unknown or a wrong setting, or the file cannot be read.
        """
        return cls._loaded(path, overrides)

    @classmethod
    def from_env(cls, **overrides: Any) -> Self:
        """Create one from `QWEN_RERANK_*`, and the file that `QWEN_RERANK_CONFIG` names, if any.

        Raises:
            ConfigurationError: As `from_config`.
        """
        return cls._loaded(None, overrides)

    @classmethod
    def split_parameters(cls, keywords: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Tell the class's own keywords from fields of `RerankConfig`, in this order."""
        names = cls.own_parameters()
        own = {name: value for name, value in keywords.items() if name in names}
        return own, {name: value for name, value in keywords.items() if name not in names}

    def close(self) -> None:
        """Release the engine, unless others use it; later calls raise `ClosedError`. A reranker that was passed in is left alone."""
        if not self._is_lent:
            self._reranker.close()

    def refuse_if_lent(self, deed: str) -> None:
        """Refuse to write down a reranker that was passed in: nobody could make it again.

        Args:
            deed: What was tried, for the message: "pickled", for example.

        Raises:
            TypeError: The reranker was passed in.
        """
        if self._is_lent:
            raise TypeError(
                f"{type(self).__name__} holds a ready reranker, which cannot be {deed}; pass settings instead"
            )

    @classmethod
    def _loaded(cls, path: str | os.PathLike[str] | None, keywords: Mapping[str, Any]) -> Self:
        own, settings = cls.split_parameters(keywords)
        create: Any = cls  # the keywords are the derived class's
        made: Self = create(config=load_config(path, overrides=settings), **own)
        return made


def _passage(content: str, ranked: RankedDocument, offset: int) -> dict[str, Any]:
    """The best passage as a part of the content; nothing where it lies before the content alone."""
    if ranked.span is None:
        return {}
    start, end = (max(0, place - offset) for place in ranked.span)
    return {PASSAGE: content[start:end], PASSAGE_SPAN: [start, end]} if start < end else {}


def _without_an_earlier_call(metadata: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in metadata.items() if key not in _OF_ONE_CALL}


def _ready(reranker: object, config: object, settings: Mapping[str, Any]) -> Reranker:
    if not isinstance(reranker, Reranker):
        raise _wrong_kind("reranker", reranker, Reranker)
    beside = [*(["config"] if config is not None else []), *settings]
    if beside:
        names = ", ".join(map(repr, beside))
        raise ConfigurationError(f"settings beside a ready reranker: {names}; allowed: none, it has its own")
    return reranker


def _with_key_read_again(settings: Mapping[str, Any]) -> dict[str, Any]:
    given = settings.get("api_key")
    text = given.get_secret_value() if isinstance(given, SecretStr) else given
    if not isinstance(text, str) or not text or set(text) != {"*"}:
        return dict(settings)
    key = os.environ.get(KEY_VARIABLE, "").strip()
    if not key:
        raise ConfigurationError(
            f"api_key is a mask: {text!r}; allowed: a key, or the variable {KEY_VARIABLE} that it is read from again"
        )
    return {**settings, "api_key": SecretStr(key)}


def _wrong_kind(name: str, value: object, kind: type) -> ConfigurationError:
    hint = "; a model is named by model=..." if isinstance(value, str) else ""
    return ConfigurationError(f"{name} has the wrong type: {value!r}; allowed: a {kind.__name__}{hint}")
