"""Keeps two commands from changing a cluster at once: one document in an index of this package, with an expiry.

The index is created with the first lock, and removed with the last pipeline.
"""

from __future__ import annotations

import getpass
import os
import socket
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Final

from opensearch_qwen_rerank.cluster import NOT_FOUND, Cluster, get_or_none
from opensearch_qwen_rerank.current_state import read_ownership, read_version
from opensearch_qwen_rerank.errors import ClusterError

__all__ = ["EXPIRY_S", "LOCK_INDEX", "locked"]

LOCK_INDEX: Final = ".qwen-rerank-lock"
EXPIRY_S: Final = 1800.0
"""Seconds after which a lock counts as left by a command that ended without releasing it; no command takes that long."""

_CONFLICT: Final = 409
_BAD_REQUEST: Final = 400
_ATTEMPTS: Final = 10
_SETTINGS: Final = {"settings": {"index.hidden": True, "number_of_shards": 1, "auto_expand_replicas": "0-1"}}


@contextmanager
def locked(cluster: Cluster) -> Iterator[None]:
    """Hold the lock of a cluster, under which plans are made and carried out.

    Raises:
        ClusterError: Another command holds the lock, or the cluster refused a request.
        UnsupportedClusterError: The address is not an OpenSearch cluster.
    """
    read_version(cluster)
    owner = uuid.uuid4().hex
    _acquire(cluster, owner)
    try:
        yield
    finally:
        _release(cluster, owner)


def _acquire(cluster: Cluster, owner: str) -> None:
    for _ in range(_ATTEMPTS):
        _create_index(cluster)
        body = {"owner": owner, "holder": _holder(), "expires_at": time.time() + EXPIRY_S}
        try:
            cluster.request("PUT", f"/{LOCK_INDEX}/_create/lock", body)
        except ClusterError as error:
            if error.status not in {_CONFLICT, NOT_FOUND}:
                raise
        else:
            return
        found = get_or_none(cluster, f"/{LOCK_INDEX}/_doc/lock")
        if found is None:  # released in the meantime
            continue
        if found["_source"]["expires_at"] > time.time():
            raise ClusterError(_locked_message(found["_source"]), status=_CONFLICT)
        _remove(cluster, found)
    raise ClusterError("the lock of the cluster cannot be acquired. Run the command again.", status=_CONFLICT)


def _create_index(cluster: Cluster) -> None:
    if get_or_none(cluster, f"/{LOCK_INDEX}") is not None:
        return
    try:
        cluster.request("PUT", f"/{LOCK_INDEX}", _SETTINGS)
    except ClusterError as error:
        # Another command may have created it.
        if error.status != _BAD_REQUEST or get_or_none(cluster, f"/{LOCK_INDEX}") is None:
            raise


def _remove(cluster: Cluster, found: Mapping[str, Any]) -> None:
    """Delete a lock unless it has changed since it was read."""
    params = {"if_seq_no": str(found["_seq_no"]), "if_primary_term": str(found["_primary_term"])}
    try:
        cluster.request("DELETE", f"/{LOCK_INDEX}/_doc/lock", params=params)
    except ClusterError as error:
        if error.status not in {_CONFLICT, NOT_FOUND}:
            raise


def _release(cluster: Cluster, owner: str) -> None:
    """Remove the lock, and its index with the last pipeline. A lock that cannot be removed expires."""
    with suppress(ClusterError):
        found = get_or_none(cluster, f"/{LOCK_INDEX}/_doc/lock")
        if found is None or found["_source"]["owner"] != owner:
            return
        if read_ownership(cluster).records:
            _remove(cluster, found)
        else:
            cluster.request("DELETE", f"/{LOCK_INDEX}")


def _holder() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # no name for the user's number
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}, process {os.getpid()}"


def _locked_message(source: Mapping[str, Any]) -> str:
    minutes = max(1, round((source["expires_at"] - time.time()) / 60))
    return (
        f"another command is changing the cluster: {source['holder']}. Wait until it has ended. "
        f"If it was killed, the lock expires in {minutes} min, or delete the index {LOCK_INDEX!r}."
    )
