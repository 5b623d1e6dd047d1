"""`QwenCrossEncoder`: pairs of texts in, probabilities out, for whatever takes LangChain's cross-encoders."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any, Self

from langchain_core.cross_encoders import BaseCrossEncoder

from langchain_qwen_rerank import _settings
from qwen_rerank_plugins import RerankConfig, Reranker, load_config

__all__ = ["QwenCrossEncoder"]


class QwenCrossEncoder(BaseCrossEncoder):
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
        if reranker is None:
            self._reranker = _settings.shared_reranker(config, settings)
        else:
            self._reranker = _settings.checked_reranker(reranker, config, settings)
        self._is_lent = reranker is not None

    @classmethod
    def from_config(cls, path: str | os.PathLike[str], **overrides: Any) -> Self:
        """Create a cross-encoder from a YAML or TOML file, over which the environment and then `overrides` go.

        Raises:
            ConfigurationError: A source holds an unknown or a wrong setting, or the file cannot be read.
        """
        return cls(config=load_config(path, overrides=overrides))

    @classmethod
    def from_env(cls, **overrides: Any) -> Self:
        """Create a cross-encoder from `QWEN_RERANK_*`, and the file that `QWEN_RERANK_CONFIG` names, if any.

        Raises:
            ConfigurationError: As `from_config`.
        """
        return cls(config=load_config(overrides=overrides))

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

    def close(self) -> None:
        """Release the engine, unless others use it; later calls fail. A reranker that was passed in is left alone."""
        if not self._is_lent:
            self._reranker.close()

    def __reduce__(self) -> tuple[Any, ...]:
        if self._is_lent:
            message = f"{type(self).__name__} holds a ready reranker, which cannot be pickled; pass settings instead"
            raise TypeError(message)
        return _restored, (type(self), _settings.public_settings(self.config))

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return type(self)(reranker=self._reranker) if self._is_lent else type(self)(config=self.config)

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in self.config.__repr_args__())
        return f"{type(self).__name__}({shown})"


def _restored(kind: type[QwenCrossEncoder], settings: dict[str, Any]) -> QwenCrossEncoder:
    return kind(**settings)
