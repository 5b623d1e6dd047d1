"""Workers and scorers whose device is lost, as after a sticky CUDA error: the process lives, and its engine does not."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from qwen_rerank_plugins.batch import BatchOptions
from qwen_rerank_plugins.config import RerankConfig
from qwen_rerank_plugins.errors import EngineError
from qwen_rerank_plugins.lexical import LexicalScorer
from qwen_rerank_plugins.ray.actor_pool import ScoringWorker
from qwen_rerank_plugins.ray.data import _Worker
from qwen_rerank_plugins.types import PairScore, ScoreRequest


class LostError(EngineError):
    """An error after which the engine cannot score again."""

    is_fatal = True


class LosingScorer(LexicalScorer):
    """Fails from its second call on, but only in the first process that gets there, which leaves its id in a file."""

    def __init__(self, marker: str) -> None:
        super().__init__()
        self._marker = Path(marker)
        self._num_calls = 0

    def score(
        self,
        requests: Sequence[ScoreRequest],
        *,
        deadline_s: float | None = None,
        priority: str = "interactive",
    ) -> list[PairScore]:
        self._num_calls += 1
        if self._num_calls > 1 and self._is_lost():
            raise LostError("CUDA error: device-side assert triggered")
        return super().score(requests, deadline_s=deadline_s)

    def _is_lost(self) -> bool:
        try:
            with self._marker.open("x", encoding="ascii") as file:
                file.write(str(os.getpid()))
        except FileExistsError:
            return self._marker.read_text(encoding="ascii") == str(os.getpid())
        return True


class LosingWorker(ScoringWorker):
    """A worker of a pool with such a scorer; the model's name is the path of the file."""

    def _loaded(self) -> LexicalScorer:
        if self._scorer is None:
            self._scorer = LosingScorer(self._config.model)
        assert isinstance(self._scorer, LexicalScorer)
        return self._scorer


class LosingDataWorker(_Worker):
    """The same for a dataset."""

    def __init__(self, config: RerankConfig, options: BatchOptions) -> None:
        super().__init__(config.replace(backend="lexical"), options)
        self._scorer = LosingScorer(config.model)
