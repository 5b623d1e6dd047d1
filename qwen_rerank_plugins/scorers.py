"""Build the scorer that a configuration describes. Imports a scorer's module only when it is needed."""

from __future__ import annotations

import copy
import logging
import time
import weakref
from collections.abc import Callable

from qwen_rerank_plugins.config import RerankConfig
from qwen_rerank_plugins.errors import MissingDependencyError, RerankError
from qwen_rerank_plugins.types import Scorer

__all__ = ["LoadBackoff", "build_scorer"]

logger = logging.getLogger(__name__)

LOCAL_MODULES = ("torch", "transformers", "tokenizers", "safetensors", "huggingface_hub")

FIRST_PAUSE_S = 1.0
MAX_PAUSE_S = 60.0

_num_threads: dict[int, int | None] = {}
"""Identity of each local scorer of this process → its setting `num_threads`."""


class LoadBackoff:
    """Keeps the error of a failed load and raises it again, without another load, until a pause is over.

    The pause doubles with every failed load, from 1 to 60 seconds. Not safe from several threads: callers hold the
    lock under which they load.

    Args:
        clock: Returns the current time in seconds.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._error: RerankError | None = None
        self._pause_s = 0.0
        self._end_s = 0.0

    def check(self) -> None:
        """Return if loading may be tried now.

        Raises:
            RerankError: A copy of the error of the last load, whose pause is not over.
        """
        now_s = self._clock()
        if self._error is not None and now_s < self._end_s:
            error = copy.copy(self._error)  # each thread needs a traceback of its own
            error.add_note(f"The next attempt to load is in {self._end_s - now_s:.1f} s.")
            raise error

    def keep(self, error: RerankError) -> None:
        """Keep the error of a load that failed, and start the next pause."""
        self._error = copy.copy(error)  # without its traceback, whose frames hold what was loaded
        self._pause_s = min(max(2 * self._pause_s, FIRST_PAUSE_S), MAX_PAUSE_S)
        self._end_s = self._clock() + self._pause_s


def build_scorer(config: RerankConfig, *, shared: bool = False) -> Scorer:
    """Build the scorer that a configuration describes; the local backend loads its model.

    Args:
        config: The settings.
        shared: Reuse the engine of this process with the same settings, if there is one.

    Raises:
        MissingDependencyError: The packages of the local backend are not installed.
        ConfigurationError: The backend does not support the settings.
        CheckpointError: The model cannot be used.
    """
    if config.backend == "lexical":
        from qwen_rerank_plugins.lexical import LexicalScorer

        return LexicalScorer()
    if config.backend == "remote":
        from qwen_rerank_plugins.remote import RemoteScorer

        return RemoteScorer.from_config(config)
    try:
        from qwen_rerank_plugins.core.local_scorer import LocalScorer
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in LOCAL_MODULES:
            raise
        message = f"the local backend needs {error.name!r}; run pip install 'qwen-rerank-plugins[local]'"
        raise MissingDependencyError(message) from error
    _warn_of_another_num_threads(config.num_threads)
    scorer = LocalScorer.from_config(config, shared=shared)
    _num_threads[id(scorer)] = config.num_threads
    weakref.finalize(scorer, _num_threads.pop, id(scorer), None)
    return scorer


def _warn_of_another_num_threads(num_threads: int | None) -> None:
    """Log a value that differs from another scorer's: torch has one number of threads per process."""
    others = {
        str(other or "torch's default") for other in list(_num_threads.values()) if other != num_threads
    }
    if num_threads is not None and others:
        logger.warning(
            "num_threads=%d differs from another reranker's in this process (%s), but torch has one number of "
            "threads per process; set the same value everywhere",
            num_threads,
            ", ".join(sorted(others)),
        )
