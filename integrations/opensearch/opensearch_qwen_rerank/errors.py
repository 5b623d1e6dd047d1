"""Exceptions of this package, below the base package's `RerankError`.

    RerankError
    └── OpenSearchError
        ├── ClusterError              the cluster cannot be reached, or answered with an error
        ├── UnsupportedClusterError   the address is not OpenSearch, or its version or plugins lack a feature
        ├── ForeignObjectError        an object of that name exists and was not created by this package
        └── VerificationError         the pipeline exists and does not rerank

Unknown and invalid settings raise the base package's `ConfigurationError`.
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
    """Base of all exceptions of this package, except for invalid settings."""


class ClusterError(OpenSearchError):
    """The cluster cannot be reached, or answered with an error.

    Attributes:
        status: The HTTP status code; 0 if there was no answer.
    """

    def __init__(self, message: str, *, status: int = 0) -> None:
        super().__init__(message)
        self.status = status

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild_cluster_error, (str(self), self.status)


def _rebuild_cluster_error(message: str, status: int) -> ClusterError:
    return ClusterError(message, status=status)


class UnsupportedClusterError(OpenSearchError):
    """The address is not an OpenSearch cluster, or its version or plugins lack a feature that the settings need."""


class ForeignObjectError(OpenSearchError):
    """An object that this package did not create, and therefore neither changes nor removes, is in the way."""


class VerificationError(OpenSearchError):
    """The pipeline exists and does not rerank; the message has the cause that the cluster reports."""
