"""What a plan warns of: risks that the settings bring for the whole cluster, or for the texts on their way."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from opensearch_qwen_rerank.request_bodies import PRIVATE_IP_SETTING
from opensearch_qwen_rerank.settings import OpenSearchSettings

__all__ = ["plan_warnings"]


def plan_warnings(settings: OpenSearchSettings, values: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what a user should know before a plan is carried out.

    Args:
        settings: What the cluster should have.
        values: Shared setting → the value that the plan gives it.
    """
    warnings = []
    if settings.recipe == "simple" and len(settings.fields) > 1:
        joined = "".join(settings.fields)
        warnings.append(
            f"the recipe 'simple' joins fields without a separator ({joined}). Use the recipe 'rich', "
            "or one field that each search builds with script_fields."
        )
    if PRIVATE_IP_SETTING in values:
        warnings.append(
            f"{PRIVATE_IP_SETTING} becomes true for the whole cluster: every connector may then reach private addresses."
        )
    if settings.service_url.startswith("http:") and not _is_loopback(settings.service_url):
        warnings.append(
            f"{settings.service_url} has no TLS: queries, texts and the key can be read on the way to the service."
        )
    return tuple(warnings)


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
