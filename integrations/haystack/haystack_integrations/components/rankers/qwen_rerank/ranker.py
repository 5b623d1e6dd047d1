"""`QwenReranker`: the base package's reranker as a Haystack component.

It turns documents into texts and a ranking into documents. How scores come about, which settings exist and what they
may hold is the base package's matter; nothing here knows models, services or event loops.
"""

# No `from __future__ import annotations`: Haystack's older versions read the types of `run` as they stand.

import asyncio
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Self

from haystack import Document, component, default_from_dict, default_to_dict
from haystack.utils import Secret
from haystack_integrations.components.rankers.qwen_rerank._documents import Candidates
from haystack_integrations.components.rankers.qwen_rerank._parameters import (
    HAYSTACK_NAMES,
    environment_secret,
    translated,
    written,
)

from qwen_rerank_plugins import ConfigurationError, InputError, RerankConfig, Reranker, RerankError
from qwen_rerank_plugins.wrapping import HoldsReranker, choose_reranker

__all__ = ["QwenReranker"]

SEPARATOR = "\n"


@component
class QwenReranker(HoldsReranker):
    """Rank documents by Qwen3-Reranker, in this process or by a service.

    Takes the settings of `RerankConfig` as keywords, by their own names or by those of Haystack's rankers (`top_k`,
    `score_threshold`). The engine is shared by the process and loaded by `warm_up`, or on first use. Calls are safe
    from several threads and event loops; the asynchronous ones never block one.

        >>> from haystack import Document
        >>> from haystack_integrations.components.rankers.qwen_rerank import QwenReranker
        >>> ranker = QwenReranker(backend="lexical", top_k=1)
        >>> documents = [Document(content="a red fox"), Document(content="the blue whale sings", id="7")]
        >>> ranker.run(query="blue whale", documents=documents)["documents"][0].id
        '7'

    Documents come back as copies, best first, `score` from 0 to 1. Of several with one id the best scored is ranked.
    Their `meta` is kept, and these keys are added:

    - `first_stage_score`: the `score` that the document came with, the first one after several rerankings
    - `rerank_log_odds`: the logit of `score`, where the model tells
    - `rerank_truncated`, `rerank_query_truncated`: true where a text was cut to fit
    - `rerank_passage`, `rerank_passage_span`: the best passage of a document that was read in chunks, and its
      `[start, end]` in `content`
    - `rerank_status`, `rerank_error`: only where nothing was scored: "disabled", or "failed" and why

    Attributes:
        meta_fields_to_embed: Meta fields whose values are scored before the content.
        embedding_separator: What stands between those values, and before the content.
    """

    def __init__(
        self,
        *,
        config: RerankConfig | None = None,
        reranker: Reranker | None = None,
        meta_fields_to_embed: Sequence[str] | None = None,
        embedding_separator: str = SEPARATOR,
        **settings: Any,
    ) -> None:
        """Create a ranker; nothing is loaded yet, and the environment's settings are not read.

        Args:
            config: Settings to start from; None for the defaults.
            reranker: A ready reranker in place of settings; it stays the caller's to close, and is not written down.
            meta_fields_to_embed: Meta fields that are scored with the content; None for the content alone.
            embedding_separator: What stands between their values, and before the content.
            settings: Fields of `RerankConfig`, over those of `config`. `api_key` may be a `Secret`, `device` a
                `ComponentDevice`; `top_k` and `score_threshold` are other names of `top_n` and `min_score`.

        Raises:
            ConfigurationError: A setting is unknown or wrong.
        """
        self.meta_fields_to_embed = _checked_fields(meta_fields_to_embed)
        self.embedding_separator = _checked_separator(embedding_separator)
        self._secret = environment_secret(settings.get("api_key"))
        self._reranker = choose_reranker(config, reranker, translated(settings))
        self._is_lent = reranker is not None
        self._is_warm = False

    @classmethod
    def own_parameters(cls) -> Collection[str]:
        """The keywords that are no fields of `RerankConfig`, or whose values may be of Haystack's own types."""
        own = {"meta_fields_to_embed", "embedding_separator", "api_key", "device"}
        return own | set(HAYSTACK_NAMES.values())

    @property
    def config(self) -> RerankConfig:
        """The settings."""
        return self._reranker.config

    def warm_up(self) -> None:
        """Load what the first call would load; pipelines call this before they run.

        Raises:
            RerankError: It cannot be loaded, and `on_error` is "raise"; else the calls themselves tell.
        """
        if self._is_warm or not self.config.enabled:
            return
        try:
            self._reranker.info()
        except RerankError as error:
            if self.config.on_error == "raise" or isinstance(error, InputError | ConfigurationError):
                raise
        else:
            self._is_warm = True

    @component.output_types(documents=list[Document])
    def run(
        self,
        query: str,
        documents: list[Document],
        top_k: int | None = None,
        score_threshold: float | None = None,
        instruction: str | None = None,
    ) -> dict[str, list[Document]]:
        """Give copies of the documents, best first: sorted, then those below the threshold dropped, then cut.

        Args:
            query: What is searched for; not blank.
            documents: What was retrieved; left as it is.
            top_k: How many to give at most; None for the ranker's own limit, which may be none.
            score_threshold: Lowest score to be given; None for the ranker's own, which may be none.
            instruction: What relevance means here; None for the ranker's own.

        Raises:
            InputError: The input cannot be ranked.
            RerankError: Scoring failed, and `on_error` is "raise".
        """
        candidates = Candidates.of(documents, self.meta_fields_to_embed, self.embedding_separator)
        options = _options(top_k, score_threshold, instruction)
        result = self._reranker.rank(query, candidates.texts, **options)
        return {"documents": candidates.ranked(result)}

    @component.output_types(documents=list[Document])
    async def run_async(
        self,
        query: str,
        documents: list[Document],
        top_k: int | None = None,
        score_threshold: float | None = None,
        instruction: str | None = None,
    ) -> dict[str, list[Document]]:
        """Rank documents as `run` does, without blocking the event loop."""
        candidates = Candidates.of(documents, self.meta_fields_to_embed, self.embedding_separator)
        options = _options(top_k, score_threshold, instruction)
        result = await self._reranker.arank(query, candidates.texts, **options)
        return {"documents": candidates.ranked(result)}

    async def warm_up_async(self) -> None:
        """Load as `warm_up` does, without blocking the event loop."""
        await asyncio.to_thread(self.warm_up)

    async def close_async(self) -> None:
        """Release the engine as `close` does, without blocking the event loop."""
        await self.aclose()

    # Copies, and what is written down.

    def to_dict(self) -> dict[str, Any]:
        """Give what was set explicitly, in Haystack's form: secrets as they are named, never a key.

        Raises:
            ValueError: A key was given as itself, which is not written: use `Secret.from_env_var`, or the settings
                `api_key_env` and `api_key_file`.
            TypeError: The ranker holds a ready reranker.
        """
        self.refuse_if_lent("serialized")
        parameters = written(self.config, self._secret) | self._own_set()
        serialized: dict[str, Any] = default_to_dict(self, **parameters)
        return serialized

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Create a ranker from what `to_dict` gave.

        Raises:
            ConfigurationError: A setting is unknown or wrong.
        """
        parameters = dict(data.get("init_parameters") or {})
        if isinstance(parameters.get("api_key"), Mapping):  # older versions leave this to the component
            parameters["api_key"] = Secret.from_dict(dict(parameters["api_key"]))
        made: Self = default_from_dict(cls, {**data, "init_parameters": parameters})
        return made

    def replace(self, **changes: Any) -> Self:
        """Give a checked copy with some settings changed, over the same engine where it can be.

        Raises:
            ConfigurationError: A setting is unknown or wrong, or belongs to a reranker that was passed in.
        """
        if self._is_lent:
            return type(self)(reranker=self._reranker, **self._own_set() | changes)
        key = {} if self._secret is None else {"api_key": self._secret}
        return type(self)(**{"config": self.config, **self._own_set(), **key, **changes})

    def __copy__(self) -> Self:
        return self.replace()

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        return self.replace()

    def __reduce__(self) -> tuple[Any, ...]:
        self.refuse_if_lent("pickled")
        return _restored, (type(self), self.to_dict())

    def _own_set(self) -> dict[str, Any]:
        """The component's own parameters that are not at their defaults."""
        own: dict[str, Any] = {}
        if self.meta_fields_to_embed:
            own["meta_fields_to_embed"] = list(self.meta_fields_to_embed)
        if self.embedding_separator != SEPARATOR:
            own["embedding_separator"] = self.embedding_separator
        return own


def _restored(kind: type[QwenReranker], data: dict[str, Any]) -> QwenReranker:
    return kind.from_dict(data)


def _options(top_k: int | None, score_threshold: float | None, instruction: str | None) -> dict[str, Any]:
    """The options of one call; left out where the ranker's own hold."""
    given = {"top_n": top_k, "min_score": score_threshold, "instruction": instruction}
    return {name: value for name, value in given.items() if value is not None}


def _checked_fields(fields: object) -> tuple[str, ...]:
    if fields is None:
        return ()
    if not isinstance(fields, list | tuple) or not all(isinstance(one, str) for one in fields):
        raise ConfigurationError(
            f"meta_fields_to_embed is not valid: {fields!r}; allowed: a list of meta fields"
        )
    return tuple(fields)


def _checked_separator(separator: object) -> str:
    if not isinstance(separator, str):
        raise ConfigurationError(f"embedding_separator is not valid: {separator!r}; allowed: a string")
    return separator
