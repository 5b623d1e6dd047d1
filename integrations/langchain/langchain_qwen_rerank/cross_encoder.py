"""`QwenCrossEncoder`: pairs of texts in, probabilities out, for whatever takes LangChain's cross-encoders."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Self

from langchain_core.cross_encoders import BaseCrossEncoder

from qwen_rerank_plugins import RerankConfig, Reranker
from qwen_rerank_plugins.wrapping import HoldsReranker, choose_reranker, explicit_settings

__all__ = ["QwenCrossEncoder"]


class QwenCrossEncoder(HoldsReranker, BaseCrossEncoder):
    """Score pairs by Qwen3-Reranker, for example under `CrossEncoderReranker(model=QwenCrossEncoder())`.

    Takes the settings of `RerankConfig` as keywords. `top_n` and `min_score` are without effect here, and a failure is
    raised whatever `on_error` says: there is no order to keep. `QwenRerank` does more with less.

        >>> from langchain_qwen_rerank import QwenCrossEncoder
        >>> scores = QwenCrossEncoder(backend="lexical").score([("whale", "a whale"), ("whale", "a fox")])
        >>> scores[0] > scores[1]
        True
    """

    def __init__(
        self, *, config: RerankConfig | None = None, reranker: Reranker | None = None, **settings: Any
    ) -> None:
        """Create a cross-encoder; nothing is loaded yet, and the environment is not read.

        Args:
            config: Settings to start from; None for the defaults.
            reranker: A ready reranker in place of settings; it stays the caller's to close.
            settings: Fields of `RerankConfig`, over those of `config`.

        Raises:
            ConfigurationError: A setting is unknown or wrong.
        """
        self._reranker = choose_reranker(config, reranker, settings)
        self._is_lent = reranker is not None

    @property
    def config(self) -> RerankConfig:
        """The settings."""
        return self._reranker.config

    def score(self, text_pairs: Iterable[tuple[str, str]]) -> list[float]:
        """Give the probability that the text is relevant to the query, for each (query, text), in input order.

        Raises:
            InputError: A pair cannot be scored.
            RerankError: Scoring failed, or is switched off.
        """
        return self._reranker.score_pairs(text_pairs)

    async def ascore(self, text_pairs: Iterable[tuple[str, str]]) -> list[float]:
        """Score pairs as `score` does, without blocking the event loop."""
        return await self._reranker.ascore_pairs(text_pairs)

    def __reduce__(self) -> tuple[Any, ...]:
        self.refuse_if_lent("pickled")
        return _restored, (type(self), explicit_settings(self.config))

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return type(self)(reranker=self._reranker) if self._is_lent else type(self)(config=self.config)

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in self.config.__repr_args__())
        return f"{type(self).__name__}({shown})"


def _restored(kind: type[QwenCrossEncoder], settings: dict[str, Any]) -> QwenCrossEncoder:
    return kind(**settings)
