"""What went wrong at a service, as errors that say it: the address, the cause, what to look at.

No message holds a key or a text of the caller's. Nothing here decides what happens next.
"""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

import httpx

from qwen_rerank_plugins.errors import RemoteConnectionError, RemoteProtocolError, RemoteStatusError
from qwen_rerank_plugins.remote.channel import Answer
from qwen_rerank_plugins.remote.redaction import excerpt_of
from qwen_rerank_plugins.remote.retries import parse_retry_after

__all__ = ["connection_error", "protocol_error", "status_error", "timeout_error"]

_HINTS = {
    400: "the request does not suit the service: check dialect and model",
    404: "there is no such address or model: base_url is the service's root, and the dialect adds its path",
    405: "the address takes no reranking: base_url is the service's root, and the dialect adds its path",
    413: "the request is too large: lower max_batch_documents",
    422: "the request does not suit the service: check dialect, model and max_batch_documents",
    429: "the service is busy",
    503: "the service is not ready",
}
_MAX_REASON_CHARS = 200


def status_error(url: str, answer: Answer, texts: Sequence[str], key: str | None) -> RemoteStatusError:
    """An answer whose status is not one of success.

    Args:
        url: The address that was asked.
        answer: What it gave.
        texts: What was sent, so that none of it is shown.
        key: The key that was sent, or None.
    """
    excerpt = excerpt_of(answer.body, texts, key)
    parts = [f"the service answered with status {answer.status}: {url!r}", _hint(answer, key)]
    parts.append(f"it says {excerpt!r}" if excerpt else "")
    return RemoteStatusError(
        "; ".join(part for part in parts if part),
        status=answer.status,
        retry_after_s=parse_retry_after(answer.headers.get("retry-after")),
    )


def protocol_error(
    url: str, dialect: str, reason: str, *, body: bytes, texts: Sequence[str], key: str | None
) -> RemoteProtocolError:
    """An answer of success that cannot be used; `reason` ends a sentence that begins with "it"."""
    excerpt = excerpt_of(body, texts, key)
    begins = f"; it begins {excerpt!r}" if excerpt else ""
    return RemoteProtocolError(
        f"the answer of {url!r} is not what the {dialect} dialect promises: it {reason}{begins}"
    )


def connection_error(url: str, error: httpx.HTTPError, attempt: int) -> RemoteConnectionError:
    """No answer, or not all of one."""
    reason = " ".join(str(error).split())[:_MAX_REASON_CHARS]
    cause = f"{type(error).__name__}: {reason}" if reason else type(error).__name__
    return RemoteConnectionError(f"the service could not be reached: {url!r}; attempt {attempt}: {cause}")


def timeout_error(url: str, timeout_s: float) -> RemoteConnectionError:
    """No answer in time."""
    return RemoteConnectionError(
        f"the service did not answer in time: {url!r}; timeout_s is {timeout_s!r}, new attempts included"
    )


def _hint(answer: Answer, key: str | None) -> str:
    if answer.status in {401, 403}:
        missing = "the key is missing: set api_key, api_key_env or api_key_file"
        return missing if key is None else "the key was refused: check api_key, api_key_env or api_key_file"
    if answer.is_redirect:
        return f"redirects are not followed: set base_url to where the service is{_target(answer)}"
    return _HINTS.get(answer.status, "")


def _target(answer: Answer) -> str:
    """Where a redirect leads, without what may be private in it."""
    try:
        parts = urlsplit(answer.headers.get("location", ""))
    except ValueError:
        return ""
    place = parts.netloc.rpartition("@")[2]
    shown = f"{parts.scheme}://{place}{parts.path}" if place else parts.path
    return f" ({shown[:_MAX_REASON_CHARS]!r})" if shown else ""
