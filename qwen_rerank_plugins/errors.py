"""Every exception that the package raises deliberately, as one tree.

    RerankError
    ├── ConfigurationError (ValueError)         a setting is unknown, contradictory or out of range
    │   └── MissingDependencyError (ImportError)  an optional package is not installed
    ├── InputError (ValueError)                 what the caller passed cannot be ranked
    │   ├── InputTypeError (TypeError)          a value has the wrong type
    │   └── InstructionTooLongError             instruction and template leave no room for a query
    ├── CheckpointError                         a model cannot be used
    │   ├── CheckpointNotFoundError             no such folder, and not available from the hub
    │   ├── CheckpointFormatError               files are missing, damaged or of a refused format
    │   ├── TensorMismatchError                 tensors are missing, unexpected or of another shape
    │   └── FamilyMismatchError                 the family's template does not fit the checkpoint
    ├── EngineError                             the forward pass failed
    │   ├── EngineOutOfMemoryError              the device's memory was exhausted, even for the smallest batch
    │   ├── DeviceLostError                     the device's context is unusable; only a new process can use it
    │   ├── NonFiniteScoreError                 the model returned NaN or infinity
    │   └── WorkerDiedError                     the worker that served the request died
    ├── RequestError                            a request was not served
    │   ├── OverloadedError                     the queue is full; try again later
    │   ├── DeadlineExceededError (TimeoutError)  the result would come after the deadline
    │   └── ClosedError                         the reranker, or its process, was closed
    └── RemoteError                             a remote service did not return a usable answer
        ├── RemoteConnectionError               it could not be reached, or not in time
        ├── RemoteStatusError                   it returned an error status
        └── RemoteProtocolError                 its answer does not follow its dialect

This module imports nothing of the package, so every module may import it.
"""

from __future__ import annotations

__all__ = [
    "CheckpointError",
    "CheckpointFormatError",
    "CheckpointNotFoundError",
    "ClosedError",
    "ConfigurationError",
    "DeadlineExceededError",
    "DeviceLostError",
    "EngineError",
    "EngineOutOfMemoryError",
    "FamilyMismatchError",
    "InputError",
    "InputTypeError",
    "InstructionTooLongError",
    "MissingDependencyError",
    "NonFiniteScoreError",
    "OverloadedError",
    "RemoteConnectionError",
    "RemoteError",
    "RemoteProtocolError",
    "RemoteStatusError",
    "RequestError",
    "RerankError",
    "TensorMismatchError",
    "WorkerDiedError",
]


class RerankError(Exception):
    """Base of everything that this package raises deliberately."""


class ConfigurationError(RerankError, ValueError):
    """A setting is unknown, contradictory or out of range."""


class MissingDependencyError(ConfigurationError, ImportError):
    """An optional package is not installed; the message holds the command that installs it."""


class InputError(RerankError, ValueError):
    """What the caller passed cannot be ranked."""


class InputTypeError(InputError, TypeError):
    """A query, document or option has the wrong type."""


class InstructionTooLongError(InputError):
    """Instruction and template together leave no room for a query and a document."""


class CheckpointError(RerankError):
    """A model cannot be used."""


class CheckpointNotFoundError(CheckpointError):
    """There is no such folder, and the model is not available from the hub."""


class CheckpointFormatError(CheckpointError):
    """Files of the checkpoint are missing, damaged or of a refused format."""


class TensorMismatchError(CheckpointError):
    """Tensors are missing, unexpected or of another shape than the configuration says."""


class FamilyMismatchError(CheckpointError):
    """The prompt family does not fit the checkpoint: other token ids, no suitable head, another architecture."""


class EngineError(RerankError):
    """The forward pass failed."""


class EngineOutOfMemoryError(EngineError):
    """The device's memory was exhausted, even for the smallest batch."""


class DeviceLostError(EngineError):
    """The device's context is unusable after an error, as on CUDA after an illegal access; only a new process can use it.

    Attributes:
        is_fatal: True. Neither a new attempt nor a new reranker in this process can succeed.
    """

    is_fatal = True


class NonFiniteScoreError(EngineError):
    """The model returned NaN or infinity for a pair."""


class WorkerDiedError(EngineError):
    """The worker that served the request died."""


class RequestError(RerankError):
    """A request was not served."""


class OverloadedError(RequestError):
    """The queue is full.

    Attributes:
        retry_after_s: Seconds after which another attempt is likely to be admitted.
    """

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild_overloaded, (str(self), self.retry_after_s)


def _rebuild_overloaded(message: str, retry_after_s: float) -> OverloadedError:
    return OverloadedError(message, retry_after_s=retry_after_s)


class DeadlineExceededError(RequestError, TimeoutError):
    """The result would come after the request's deadline."""


class ClosedError(RequestError):
    """The reranker was closed, or belongs to another process."""


class RemoteError(RerankError):
    """A remote service did not return a usable answer."""


class RemoteConnectionError(RemoteError):
    """The service could not be reached, or did not answer in time."""


class RemoteStatusError(RemoteError):
    """The service returned an error status.

    Attributes:
        status: The HTTP status code.
        retry_after_s: Seconds from the service's Retry-After header, or None.
    """

    def __init__(self, message: str, *, status: int, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after_s = retry_after_s

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild_remote_status, (str(self), self.status, self.retry_after_s)


def _rebuild_remote_status(message: str, status: int, retry_after_s: float | None) -> RemoteStatusError:
    return RemoteStatusError(message, status=status, retry_after_s=retry_after_s)


class RemoteProtocolError(RemoteError):
    """The service's answer does not follow its dialect: scores are missing, indices unknown, or it is not JSON."""
