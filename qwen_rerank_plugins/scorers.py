"""Build the scorer that a configuration describes. Imports a scorer's module only when it is needed."""

from __future__ import annotations

import copy
import logging
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from qwen_rerank_plugins.calibration import load_calibration
from qwen_rerank_plugins.config import RerankConfig
from qwen_rerank_plugins.errors import ConfigurationError, MissingDependencyError, RerankError
from qwen_rerank_plugins.types import Scorer

__all__ = ["LoadBackoff", "build_scorer", "model_fingerprint"]

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
        ConfigurationError: The backend does not support the settings, or the calibration file is of another model.
        CheckpointError: The model cannot be used.
    """
    if config.calibration is not None:
        load_calibration(config.calibration, fingerprint=model_fingerprint(config))
    if config.backend == "lexical":
        from qwen_rerank_plugins.lexical import LexicalScorer

        return LexicalScorer()
    if config.backend == "remote":
        from qwen_rerank_plugins.remote import RemoteScorer

        return RemoteScorer.from_config(config)
    with _local_packages():
        from qwen_rerank_plugins.core.local_scorer import LocalScorer
    _warn_of_another_num_threads(config.num_threads)
    scorer = LocalScorer.from_config(config, shared=shared)
    _num_threads[id(scorer)] = config.num_threads
    weakref.finalize(scorer, _num_threads.pop, id(scorer), None)
    return scorer


def model_fingerprint(config: RerankConfig) -> str:
    """Return the digest of a model's files that a calibration file names; the whole weights are read.

    Raises:
        MissingDependencyError: The packages of the local backend are not installed.
        ConfigurationError: The backend is remote: the files are at the service.
        CheckpointError: The model cannot be used.
    """
    if config.backend == "lexical":
        return config.backend
    if config.backend == "remote":
        raise ConfigurationError(
            "the model's files are not here: `backend` is 'remote'; use the local backend"
        )
    with _local_packages():
        from qwen_rerank_plugins.core.checkpoints.checkpoint import content_fingerprint, open_checkpoint
    return content_fingerprint(
        open_checkpoint(config.model, config.revision, config.adapter_weights, config.hub)
    )


@contextmanager
def _local_packages() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in LOCAL_MODULES:
            raise
        message = f"the local backend needs {error.name!r}; run pip install 'qwen-rerank-plugins[local]'"
        raise MissingDependencyError(message) from error


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
