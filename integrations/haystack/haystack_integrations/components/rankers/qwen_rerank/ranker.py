"""`QwenReranker`: the base package's reranker as a Haystack component.

It converts documents to texts and a ranking to documents. How scores come about, which settings exist and which values
they accept is the base package's matter; nothing here knows models, services or event loops.
"""

# No `from __future__ import annotations`: older versions of Haystack read the types of `run` as objects.

import asyncio
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, Self

from haystack import Document, component, default_from_dict, default_to_dict
from haystack.utils import Secret
from haystack_integrations.components.rankers.qwen_rerank._documents import (
    render_documents,
    render_values,
    reranked_documents,
)
from haystack_integrations.components.rankers.qwen_rerank._parameters import (
    HAYSTACK_NAMES,
    environment_secret,
    to_parameters,
    to_settings,
)

from qwen_rerank_plugins import (
    ConfigurationError,
    InputError,
    RerankConfig,
    Reranker,
    RerankError,
    SpanOptions,
)
from qwen_rerank_plugins.adapters import (
    OwnsReranker,
    SpanParameters,
    check_metadata_fields,
    check_span_parameters,
    render_metadata,
)

__all__ = ["QwenReranker"]

SEPARATOR = "\n"

_TEXT_DEFAULTS = {"metadata_fields": None, "meta_fields_to_embed": (), "embedding_separator": SEPARATOR}


@component
class QwenReranker(OwnsReranker):
    """Rank documents with Qwen3-Reranker, in this process or with a service.

    The settings of `RerankConfig` are keywords with the same names, or with those of Haystack's rankers (`top_k`,
    `score_threshold`). The engine is shared by the process and loaded by `warm_up`, or on first use. Calls are safe
    from several threads and event loops; asynchronous calls never block the event loop.

        >>> from haystack import Document
        >>> from haystack_integrations.components.rankers.qwen_rerank import QwenReranker
        >>> ranker = QwenReranker(backend="lexical", top_k=1)
        >>> documents = [Document(content="a red fox"), Document(content="the blue whale sings", id="7")]
        >>> ranker.run(query="blue whale", documents=documents)["documents"][0].id
        '7'

    The results are copies of the documents, best first, with `score` from 0 to 1. Of several documents with one id, the
    one with the best score is ranked. Their `meta` is kept, and these keys are added:

    - `first_stage_score`: the `score` before the first reranking, if any
    - `rerank_log_odds`: the logit of `score`, if the service reports it
    - `rerank_truncated`, `rerank_query_truncated`: true if a text was cut to fit
    - `rerank_warnings`: only if a text was repaired or has a prompt template around it
    - `rerank_passage`, `rerank_passage_span`: the best passage of a document that was read in chunks, and its
      `[start, end]` in `content`
    - `rerank_spans`: with `spans` or `compress`, the relevant spans of `content`, best first: `start`, `end`,
      `relevance_score` and `log_odds`
    - `rerank_original_content`, `rerank_kept_spans`: if `content` was shortened, the whole content, to which all offsets
      refer, and the `[start, end]` of its parts
    - `rerank_status`, `rerank_error`: only if nothing was scored: "disabled", or "failed" and the reason

    Attributes:
        metadata_fields: Meta fields that are scored with the content, one `name: value` line each, before it; None
            for `meta_fields_to_embed`.
        meta_fields_to_embed: Meta fields whose values are scored before the content, as in Haystack's rankers.
        embedding_separator: Separator between those values and the content.
        span_parameters: Which relevant spans are returned, and whether the content is shortened to them.
    """

    def __init__(
        self,
        *,
        config: RerankConfig | None = None,
        reranker: Reranker | None = None,
        metadata_fields: Sequence[str] | None = None,
        meta_fields_to_embed: Sequence[str] | None = None,
        embedding_separator: str = SEPARATOR,
        spans: SpanOptions | Mapping[str, Any] | None = None,
        compress: Literal["spans"] | None = None,
        context: int = 1,
        **settings: Any,
    ) -> None:
        """Create a ranker. Nothing is loaded yet, and settings are not read from the environment.

        Args:
            config: Settings to start from; None for the defaults.
            reranker: A ready reranker in place of settings; the caller closes it, and it is not serialized.
            metadata_fields: Meta fields in the order in which they are scored; None for `meta_fields_to_embed`.
            meta_fields_to_embed: Meta fields whose values are scored with the content; None for the content alone.
            embedding_separator: Separator between those values and the content.
            spans: Which relevant spans to return, as `SpanOptions` or its fields; None for none.
            compress: "spans" to shorten the documents to the relevant spans and their neighbours, with "[…]" in place of
                the rest; `spans` then has the defaults of `SpanOptions`.
            context: Sentences to keep before and after each span.
            settings: Fields of `RerankConfig`, which override those of `config`. `api_key` can be a `Secret`, `device`
                a `ComponentDevice`; `top_k` and `score_threshold` are other names of `top_n` and `min_score`.

        Raises:
            ConfigurationError: A setting is unknown or wrong.
        """
        self.metadata_fields = check_metadata_fields(metadata_fields)
        self.meta_fields_to_embed = (
            check_metadata_fields(meta_fields_to_embed, name="meta_fields_to_embed") or ()
        )
        self.embedding_separator = embedding_separator
        if not isinstance(embedding_separator, str):
            raise ConfigurationError(
                f"embedding_separator is not valid: {embedding_separator!r}. Pass a string."
            )
        self.span_parameters = check_span_parameters(spans=spans, compress=compress, context=context)
        if metadata_fields is not None and len(names := sorted(self._text_parameters())) > 1:
            raise ConfigurationError(f"parameters exclude each other: {', '.join(names)}. Pass one of them.")
        if isinstance(settings.get("api_key"), Mapping):  # as `to_dict` writes it
            settings["api_key"] = Secret.from_dict(dict(settings["api_key"]))
        self._secret = environment_secret(settings.get("api_key"))
        self._is_warm = False
        OwnsReranker.__init__(self, config=config, reranker=reranker, **to_settings(settings))

    def warm_up(self) -> None:
        """Load the model; pipelines call this before they run.

        Raises:
            RerankError: It cannot be loaded, and `on_error` is "raise"; otherwise the results of `run` report it.
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
        """Return copies of the documents, best first: sorted, without those below the threshold, then cut to `top_k`.

        Args:
            query: The search query; not blank.
            documents: The retrieved documents; not changed.
            top_k: Maximum number of documents; None for the ranker's own limit, if any.
            score_threshold: Minimum score; None for the ranker's own threshold, if any.
            instruction: What relevance means here; None for the ranker's own instruction.

        Raises:
            InputError: The input cannot be ranked.
            RerankError: Scoring failed, and `on_error` is "raise".
        """
        candidates = render_documents(documents, self._render_prefix)
        options = self._options(top_k, score_threshold, instruction)
        result = self._reranker.rank(query, candidates.texts, **options)
        return {"documents": reranked_documents(candidates, result, self.span_parameters)}

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
        candidates = render_documents(documents, self._render_prefix)
        options = self._options(top_k, score_threshold, instruction)
        result = await self._reranker.arank(query, candidates.texts, **options)
        return {"documents": reranked_documents(candidates, result, self.span_parameters)}

    async def warm_up_async(self) -> None:
        """Load as `warm_up` does, without blocking the event loop."""
        await asyncio.to_thread(self.warm_up)

    async def close_async(self) -> None:
        """Release the engine as `close` does, without blocking the event loop."""
        await self.aclose()

    # Copies and serialization.

    def to_dict(self) -> dict[str, Any]:
        """Return what was set explicitly, in Haystack's form: secrets by name, never a key.

        Raises:
            ValueError: The key itself was passed and is not serialized: use `Secret.from_env_var`, or the settings
                `api_key_env` and `api_key_file`.
            TypeError: The ranker uses a reranker that was passed in.
        """
        self.refuse_if_borrowed("serialized")
        serialized: dict[str, Any] = default_to_dict(self, **self.to_parameters())
        return serialized

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Create a ranker from the result of `to_dict`.

        Raises:
            ConfigurationError: A setting is unknown or wrong.
        """
        parameters = dict(data.get("init_parameters") or {})  # some versions change the dictionary
        created: Self = default_from_dict(cls, {**data, "init_parameters": parameters})
        return created

    @classmethod
    def own_parameters(cls) -> Collection[str]:
        """The keywords that are not fields of `RerankConfig`, or that accept Haystack's own types."""
        own = {"metadata_fields", "meta_fields_to_embed", "embedding_separator", "api_key", "device"}
        return own | set(SpanParameters.model_fields) | set(HAYSTACK_NAMES.values())

    def own_settings(self) -> dict[str, Any]:
        """The component's own parameters that differ from their defaults, and a secret that names variables."""
        secret = {} if self._secret is None else {"api_key": self._secret}
        return secret | self._text_parameters() | self.span_parameters.model_dump(exclude_defaults=True)

    def to_parameters(self) -> dict[str, Any]:
        """Return the keywords that create an equal ranker, as plain JSON types, with secrets by name.

        Raises:
            ValueError: As `to_dict`.
        """
        own = self._text_parameters() | self.span_parameters.model_dump(exclude_defaults=True)
        return to_parameters(self.config, self._secret) | own

    # The text that is scored.

    def _render_prefix(self, meta: Mapping[str, Any]) -> str:
        if self.metadata_fields is not None:
            return render_metadata(meta, self.metadata_fields)
        return render_values(meta, self.meta_fields_to_embed, self.embedding_separator)

    def _text_parameters(self) -> dict[str, Any]:
        held = {name: getattr(self, name) for name in _TEXT_DEFAULTS}
        changed = {name: value for name, value in held.items() if value != _TEXT_DEFAULTS[name]}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in changed.items()}

    def _options(
        self, top_k: int | None, score_threshold: float | None, instruction: str | None
    ) -> dict[str, Any]:
        """Return the options of one call, without those that are the ranker's own settings."""
        given = {"top_n": top_k, "min_score": score_threshold, "instruction": instruction}
        options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        return options | {"spans": self.span_parameters.requested_spans}
