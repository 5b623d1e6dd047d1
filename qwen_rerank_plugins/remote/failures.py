"""Errors for failed calls, with the address, the cause and what to check.

No message contains a key or a text of the caller's.
"""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

import httpx

from qwen_rerank_plugins.errors import RemoteConnectionError, RemoteProtocolError, RemoteStatusError
from qwen_rerank_plugins.remote.channel import Answer
from qwen_rerank_plugins.remote.redaction import redacted_excerpt
from qwen_rerank_plugins.remote.retries import parse_retry_after

__all__ = ["connection_error", "protocol_error", "status_error", "timeout_error"]

_ADDRESS_HINT = "set base_url to the root of the service, or to the full address of its rerank endpoint"
_HINTS = {
    400: "the service rejected the request: check dialect and model",
    404: f"no such address or model: {_ADDRESS_HINT}",
    405: f"the address does not rerank: {_ADDRESS_HINT}",
    413: "the request is too large: lower max_batch_documents",
    422: "the service rejected the request: check dialect, model and max_batch_documents",
    429: "the service is busy",
    503: "the service is not ready",
}
_CERTIFICATE_HINT = "; set ca_file to the PEM file of the authority that signed the service's certificate"
_MAX_REASON_CHARS = 200


def status_error(url: str, answer: Answer, texts: Sequence[str], key: str | None) -> RemoteStatusError:
    """Return the error for an answer whose status is not 2xx.

    Args:
        url: URL of the call.
        answer: The answer.
        texts: The texts that were sent, which the message must not contain.
        key: The key that was sent, or None.
    """
    excerpt = redacted_excerpt(answer.body, texts, key)
    parts = [f"the service returned status {answer.status}: {url!r}", _hint(answer, key)]
    parts.append(f"its answer begins {excerpt!r}" if excerpt else "")
    return RemoteStatusError(
        "; ".join(part for part in parts if part),
        status=answer.status,
        retry_after_s=parse_retry_after(answer.headers.get("retry-after")),
    )


def protocol_error(
    url: str, dialect: str, reason: str, *, body: bytes, texts: Sequence[str], key: str | None
) -> RemoteProtocolError:
    """Return the error for a 2xx answer that is invalid. `reason` completes a sentence that begins with "it"."""
    excerpt = redacted_excerpt(body, texts, key)
    begins = f"; it begins {excerpt!r}" if excerpt else ""
    return RemoteProtocolError(
        f"the answer of {url!r} does not follow the {dialect} dialect: it {reason}{begins}"
    )


def connection_error(url: str, error: httpx.HTTPError, attempt: int) -> RemoteConnectionError:
    """Return the error for an answer that is missing or incomplete."""
    reason = " ".join(str(error).split())[:_MAX_REASON_CHARS]
    cause = f"{type(error).__name__}: {reason}" if reason else type(error).__name__
    hint = _CERTIFICATE_HINT if "CERTIFICATE_VERIFY_FAILED" in reason else ""
    return RemoteConnectionError(f"cannot reach the service: {url!r}; attempt {attempt}: {cause}{hint}")


def timeout_error(url: str, timeout_s: float) -> RemoteConnectionError:
    """Return the error for a timeout."""
    return RemoteConnectionError(
        f"the service did not answer in time: {url!r}; timeout_s is {timeout_s!r}, retries included"
    )


def _hint(answer: Answer, key: str | None) -> str:
    if answer.status in {401, 403}:
        missing = "no key was sent: set api_key, api_key_env or api_key_file"
        return missing if key is None else "the key was rejected: check api_key, api_key_env or api_key_file"
    if answer.is_redirect:
        return f"redirects are not followed: set base_url to the address of the service{_target(answer)}"
    return _HINTS.get(answer.status, "")


def _target(answer: Answer) -> str:
    """Return the target of a redirect, without credentials and query."""
    try:
        parts = urlsplit(answer.headers.get("location", ""))
    except ValueError:
        return ""
    place = parts.netloc.rpartition("@")[2]
    shown = f"{parts.scheme}://{place}{parts.path}" if place else parts.path
    return f" ({shown[:_MAX_REASON_CHARS]!r})" if shown else ""
