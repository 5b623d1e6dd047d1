"""What goes wrong with a cluster, below the base package's `RerankError`.

    RerankError
    └── OpenSearchError
        ├── ClusterError              the cluster could not be reached, or answered with an error
        ├── UnsupportedClusterError   its version or its plugins cannot do what was asked for
        ├── ForeignObjectError        something of that name is there and was not made by this package
        └── VerificationError         the pipeline is there and does not rerank

Settings that are unknown or wrong raise the base package's `ConfigurationError`.
"""

from __future__ import annotations

from qwen_rerank_plugins import RerankError

__all__ = [
    "ClusterError",
    "ForeignObjectError",
    "OpenSearchError",
    "UnsupportedClusterError",
    "VerificationError",
]


class OpenSearchError(RerankError):
    """Base of everything that this package raises on purpose, wrong settings aside."""


class ClusterError(OpenSearchError):
    """The cluster could not be reached, or answered with an error.

    Attributes:
        status: The HTTP status code; 0 where there was no answer.
    """

    def __init__(self, message: str, *, status: int = 0) -> None:
        super().__init__(message)
        self.status = status

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild_cluster_error, (str(self), self.status)


def _rebuild_cluster_error(message: str, status: int) -> ClusterError:
    return ClusterError(message, status=status)


class UnsupportedClusterError(OpenSearchError):
    """The cluster's version or plugins cannot do what was asked for; the message says since when they can."""


class ForeignObjectError(OpenSearchError):
    """Something is in the way that this package did not make, and therefore neither changes nor removes."""


class VerificationError(OpenSearchError):
    """The pipeline is there and does not rerank; the message holds the cause that the cluster tells."""
