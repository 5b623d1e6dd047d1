"""A cluster as the rest of this package sees it: one method, plain JSON, our own errors.

Knows opensearch-py and how a cluster is reached; knows nothing of rerankers. Secrets that were used to reach the
cluster, or that a body holds, are taken out of every message.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

from opensearchpy import OpenSearch, exceptions
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_fixed

from opensearch_qwen_rerank.errors import ClusterError
from opensearch_qwen_rerank.settings import OpenSearchSettings, read_secret
from qwen_rerank_plugins import MissingDependencyError

__all__ = ["NOT_FOUND", "Cluster", "OpenSearchCluster", "connect", "find", "request"]

# All pass by themselves: a cluster makes the key in the seconds after its first use; it looks for a connector's and a
# group's models by a search, which lags behind their removal; and a model's state lags behind the answer that it was
# undeployed (github.com/opensearch-project/ml-commons/issues/2419).
_PASSING = re.compile(
    r"master key has not been initialized"
    r"|models are still using this connector"
    r"|the model group when it has associated model versions"
    r"|cannot be deleted in deploying or deployed state"
    r"|Model is deploying"
)
NOT_FOUND: Final = 404
_MAX_MESSAGE = 1000
PATIENCE_S = 60.0
PAUSE_S = 1.0


class Cluster(Protocol):
    """What is needed of a cluster."""

    def request(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        params: Mapping[str, str] | None = None,
    ) -> Any:
        """Send one request and give the answer's JSON.

        Raises:
            ClusterError: The cluster cannot be reached, or answers with an error status.
        """


class OpenSearchCluster:
    """A real cluster, over opensearch-py.

    Args:
        client: A client of the caller's making.
        secrets: Texts that no message may hold.
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
        """Send one request and give the answer's JSON.

        Raises:
            ClusterError: The cluster cannot be reached, or answers with an error status.
        """
        try:
            return self._client.transport.perform_request(
                method, path, params=dict(params or {}), body=None if body is None else dict(body)
            )
        except exceptions.TransportError as error:
            raise self._told(method, path, error) from None
        except exceptions.OpenSearchException as error:
            raise ClusterError(self._clean(f"{method} {path} failed: {error}")) from None

    def close(self) -> None:
        """Close its connections."""
        self._client.close()

    def _told(self, method: str, path: str, error: exceptions.TransportError) -> ClusterError:
        status = error.status_code if isinstance(error.status_code, int) else 0
        if isinstance(error, exceptions.ConnectionError):
            return ClusterError(self._clean(f"the cluster cannot be reached: {error.error}"))
        reason = _reason(error.info) or str(error.error)
        return ClusterError(
            self._clean(f"{method} {path} was answered with status {status}: {reason}"), status=status
        )

    def _clean(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "**********")
        text = " ".join(text.split())
        return text if len(text) <= _MAX_MESSAGE else f"{text[:_MAX_MESSAGE]}..."


def _reason(info: Any) -> str:
    """Give the innermost reason of an error's body, which says the cause; the outer ones say where it surfaced."""
    error = info.get("error", info) if isinstance(info, dict) else info
    reasons = []
    while isinstance(error, dict):
        reasons.append(error.get("reason") or error.get("message") or error.get("type"))
        error = error.get("caused_by")
    told = [str(reason) for reason in dict.fromkeys(reasons) if reason]
    return ": ".join(told) if told else (str(error) if error else "")


def connect(settings: OpenSearchSettings, *, secrets: Sequence[str | None] = ()) -> OpenSearchCluster:
    """Give the cluster that the settings name; nothing is sent yet.

    Args:
        settings: How it is reached.
        secrets: Further texts that no message may hold.

    Raises:
        ConfigurationError: A password is missing, or a file cannot be read.
        MissingDependencyError: Requests are to be signed, and boto3 is not installed.
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
        message = "signing requests needs 'boto3': pip install 'opensearch-qwen-rerank[aws]'"
        raise MissingDependencyError(message) from error
    from opensearchpy import Urllib3AWSV4SignerAuth

    credentials = boto3.Session().get_credentials()
    if credentials is None:
        raise ClusterError("no AWS credentials were found; allowed: any place where boto3 looks for them")
    return Urllib3AWSV4SignerAuth(credentials, region, service)


def find(cluster: Cluster, path: str, params: Mapping[str, str] | None = None) -> Any:
    """Get something, or None where there is nothing of that name.

    Raises:
        ClusterError: Any other error.
    """
    try:
        return cluster.request("GET", path, params=params)
    except ClusterError as error:
        if error.status == NOT_FOUND:
            return None
        raise


def request(
    cluster: Cluster,
    method: str,
    path: str,
    body: Mapping[str, Any] | None = None,
    *,
    before_again: Callable[[], None] | None = None,
) -> Any:
    """Send a request that changes something, again while the cluster refuses it for a cause that passes.

    Args:
        cluster: Who is asked.
        method: As HTTP names it.
        path: Where to, from the first slash on.
        body: What is sent.
        before_again: Called before each repetition.

    Raises:
        ClusterError: It was refused for another cause, or for too long.
    """
    attempts = Retrying(
        retry=retry_if_exception(
            lambda error: isinstance(error, ClusterError) and bool(_PASSING.search(str(error)))
        ),
        wait=wait_fixed(PAUSE_S),
        stop=stop_after_delay(PATIENCE_S),
        before_sleep=None if before_again is None else lambda _: before_again(),
        reraise=True,
    )
    return attempts(cluster.request, method, path, body)
