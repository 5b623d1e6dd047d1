"""An OpenSearch cluster as the rest of this package uses it: one method, plain JSON, this package's exceptions.

This module knows opensearch-py and authentication, and nothing of rerankers. Secrets are removed from every message.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

from opensearchpy import OpenSearch, exceptions
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_fixed

from opensearch_qwen_rerank.errors import ClusterError, UnsupportedClusterError
from opensearch_qwen_rerank.settings import OpenSearchSettings, read_secret
from qwen_rerank_plugins import MissingDependencyError

__all__ = [
    "BAD_REQUEST",
    "CONFLICT",
    "NOT_FOUND",
    "SERVICE_UNAVAILABLE",
    "Cluster",
    "OpenSearchCluster",
    "connect",
    "get_or_none",
    "send_with_retries",
]

BAD_REQUEST: Final = 400
NOT_FOUND: Final = 404
SERVICE_UNAVAILABLE: Final = 503
CONFLICT: Final = 409
_MAX_MESSAGE = 1000
CHECK_ADDRESS: Final = "Check the address in --cluster."
RETRY_TIMEOUT_S = 60.0
RETRY_INTERVAL_S = 1.0


class Cluster(Protocol):
    """The interface of a cluster."""

    def request(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        params: Mapping[str, str] | None = None,
    ) -> Any:
        """Send a request and return the JSON value of the response.

        Raises:
            ClusterError: The cluster cannot be reached, or answered with an error status.
            UnsupportedClusterError: The response is not JSON.
        """


class OpenSearchCluster:
    """A real cluster, reached with opensearch-py.

    Args:
        client: The client.
        secrets: Texts that are removed from messages.
    """

    def __init__(self, client: OpenSearch, *, secrets: Sequence[str | None] = ()) -> None:
        self._client = client
        self._secrets = [secret for secret in secrets if secret]

    def request(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        params: Mapping[str, str] | None = None,
    ) -> Any:
        """Send a request and return the JSON value of the response.

        Raises:
            ClusterError: The cluster cannot be reached, or answered with an error status.
            UnsupportedClusterError: The response is not JSON.
        """
        try:
            return self._client.transport.perform_request(
                method, path, params=dict(params or {}), body=None if body is None else dict(body)
            )
        except exceptions.TransportError as error:
            raise self._to_cluster_error(method, path, error) from None
        except exceptions.SerializationError as error:
            raise UnsupportedClusterError(
                self._redact(
                    f"this is not an OpenSearch cluster: {method} {path} returned no JSON: {error}. {CHECK_ADDRESS}"
                )
            ) from None
        except exceptions.OpenSearchException as error:
            raise ClusterError(self._redact(f"{method} {path} failed: {error}")) from None

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _to_cluster_error(self, method: str, path: str, error: exceptions.TransportError) -> ClusterError:
        status = error.status_code if isinstance(error.status_code, int) else 0
        if isinstance(error, exceptions.ConnectionError):
            return ClusterError(self._redact(f"the cluster cannot be reached: {error.error}"))
        reason = _reason(error.info) or str(error.error)
        return ClusterError(
            self._redact(f"{method} {path} was answered with status {status}: {reason}"), status=status
        )

    def _redact(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "**********")
        text = " ".join(text.split())
        return text if len(text) <= _MAX_MESSAGE else f"{text[:_MAX_MESSAGE]}..."


def _reason(info: Any) -> str:
    """Return the reasons of an error body, from where the error surfaced to its cause."""
    error = info.get("error", info) if isinstance(info, dict) else info
    reasons = []
    while isinstance(error, dict):
        reasons.append(error.get("reason") or error.get("message") or error.get("type"))
        error = error.get("caused_by")
    texts = [str(reason) for reason in dict.fromkeys(reasons) if reason]
    return ": ".join(texts) if texts else (str(error) if error else "")


def connect(settings: OpenSearchSettings, *, secrets: Sequence[str | None] = ()) -> OpenSearchCluster:
    """Create a client for the cluster that the settings name; sends nothing yet.

    Args:
        settings: Address and credentials.
        secrets: Further texts that are removed from messages.

    Raises:
        ConfigurationError: A password is missing, or a file cannot be read.
        MissingDependencyError: Requests must be signed, and boto3 is not installed.
    """
    password = read_secret(settings, "password")
    tls: dict[str, Any] = {
        "verify_certs": settings.verify_certs,
        "ssl_show_warn": False,
        "ca_certs": settings.ca_certs,
        "client_cert": settings.client_cert,
        "client_key": settings.client_key,
    }
    client = OpenSearch(
        [settings.cluster],
        http_auth=_authentication(settings, password),
        timeout=settings.timeout_s,
        max_retries=0,
        **(tls if settings.cluster.startswith("https:") else {}),
    )
    return OpenSearchCluster(client, secrets=[password, *secrets])


def _authentication(settings: OpenSearchSettings, password: str | None) -> Any:
    if settings.aws_region is not None:
        return _signer(settings.aws_region, settings.aws_service)
    return None if settings.username is None else (settings.username, password)


def _signer(region: str, service: str) -> Any:
    try:
        import boto3
    except ModuleNotFoundError as error:
        message = "signed requests need 'boto3': pip install 'opensearch-qwen-rerank[aws]'"
        raise MissingDependencyError(message) from error
    from opensearchpy import Urllib3AWSV4SignerAuth

    credentials = boto3.Session().get_credentials()
    if credentials is None:
        raise ClusterError("no AWS credentials were found. Set them where boto3 looks for them.")
    return Urllib3AWSV4SignerAuth(credentials, region, service)


def get_or_none(cluster: Cluster, path: str, params: Mapping[str, str] | None = None) -> Any:
    """Return the response to a GET request, or None if the status is 404.

    Raises:
        ClusterError: Any other error.
    """
    try:
        return cluster.request("GET", path, params=params)
    except ClusterError as error:
        if error.status == NOT_FOUND:
            return None
        raise


def send_with_retries(
    cluster: Cluster,
    method: str,
    path: str,
    body: Mapping[str, Any] | None = None,
    *,
    is_transient: Callable[[ClusterError], bool],
    before_retry: Callable[[], None] = lambda: None,
    timeout_s: float | None = None,
) -> Any:
    """Send a request that changes something, and repeat it while it fails with a transient error.

    Args:
        cluster: The cluster.
        method: HTTP method.
        path: Path, with the leading slash.
        body: Request body.
        is_transient: Whether an error goes away by itself. It may read the cluster's state.
        before_retry: Called before each repetition.
        timeout_s: How long a transient error may last, in seconds; None for `RETRY_TIMEOUT_S`.

    Raises:
        ClusterError: Another error, or a transient error that lasts too long.
    """
    attempts = Retrying(
        retry=retry_if_exception(lambda error: isinstance(error, ClusterError) and is_transient(error)),
        wait=wait_fixed(RETRY_INTERVAL_S),
        stop=stop_after_delay(RETRY_TIMEOUT_S if timeout_s is None else timeout_s),
        before_sleep=lambda _: before_retry(),
        reraise=True,
    )
    return attempts(cluster.request, method, path, body)
