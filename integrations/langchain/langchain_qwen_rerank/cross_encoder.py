"""`QwenCrossEncoder`: pairs of texts to probabilities, for everything that takes LangChain's cross-encoders."""

from __future__ import annotations

from collections.abc import Iterable

from langchain_core.cross_encoders import BaseCrossEncoder

from qwen_rerank_plugins.adapters import OwnsReranker

__all__ = ["QwenCrossEncoder"]


class QwenCrossEncoder(OwnsReranker, BaseCrossEncoder):
    """Score pairs with Qwen3-Reranker, for example in `CrossEncoderReranker(model=QwenCrossEncoder())`.

    The settings of `RerankConfig` are keywords with the same names. `top_n` and `min_score` have no effect, and a
    failure is raised whatever `on_error` is, since pairs have no order to keep. Prefer `QwenRerank`, which also keeps
    the documents' metadata, calls the model asynchronously and appears in traces.

        >>> from langchain_qwen_rerank import QwenCrossEncoder
        >>> scores = QwenCrossEncoder(backend="lexical").score([("whale", "a whale"), ("whale", "a fox")])
        >>> scores[0] > scores[1]
        True
    """

    def score(self, text_pairs: Iterable[tuple[str, str]]) -> list[float]:
        """Return the probability that the text is relevant to the query, for each (query, text), in input order.

        Raises:
            InputError: A pair cannot be scored.
            RerankError: Scoring failed or is switched off.
        """
        return self._reranker.score_pairs(text_pairs)

    async def ascore(self, text_pairs: Iterable[tuple[str, str]]) -> list[float]:
        """Score pairs as `score` does, without blocking the event loop."""
        return await self._reranker.ascore_pairs(text_pairs)
