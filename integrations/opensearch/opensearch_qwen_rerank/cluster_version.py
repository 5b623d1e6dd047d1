"""Which OpenSearch version supports which feature. The numbers are the releases' own; no cluster is probed."""

from __future__ import annotations

import re
from typing import NamedTuple

from opensearch_qwen_rerank.errors import UnsupportedClusterError

__all__ = [
    "NESTED_FIELDS",
    "PREVIOUS_SCORE_FIELD",
    "PRIVATE_ENDPOINTS",
    "RECIPE_MIN_VERSIONS",
    "SKIP_VALIDATION",
    "VERBOSE_PIPELINE",
    "ClusterVersion",
    "check_recipe",
]


class ClusterVersion(NamedTuple):
    """A release; versions compare in their order."""

    major: int
    minor: int
    patch: int = 0

    @classmethod
    def parse(cls, text: str) -> ClusterVersion:
        """Read `3.6.0`, also `3.7.0-SNAPSHOT`.

        Raises:
            UnsupportedClusterError: The text is not a version.
        """
        found = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", text)
        if found is None:
            raise UnsupportedClusterError(
                f"the cluster reports an unknown version: {text!r}. Use OpenSearch 2.15 or newer."
            )
        return cls(*(int(part or 0) for part in found.groups()))

    def __str__(self) -> str:
        """Return the version as OpenSearch writes it."""
        return f"{self.major}.{self.minor}.{self.patch}"


# Private addresses can be allowed, timeouts are in seconds, and a connector can set retries.
SIMPLE = ClusterVersion(2, 15)
# `ext.ml_inference`. `rerank.by_field` and `$._request` are one minor version older.
RICH = ClusterVersion(2, 19)
RECIPE_MIN_VERSIONS = {"simple": SIMPLE, "rich": RICH, "native": RICH}

# `skip_validating_missing_parameters`: a document with "${parameters.x}" does not fail the search.
SKIP_VALIDATION = ClusterVersion(2, 17)
# `verbose_pipeline=true` returns the result of each processor.
VERBOSE_PIPELINE = ClusterVersion(2, 19)
# Dotted `document_fields`. Older versions silently send an empty text for such a field.
NESTED_FIELDS = ClusterVersion(3, 6)
# `trusted_connector_private_endpoints_regex`, a second list that must allow private addresses.
PRIVATE_ENDPOINTS = ClusterVersion(3, 7)
# `previous_score_field` of `rerank.by_field`. Older versions have a fixed name.
PREVIOUS_SCORE_FIELD = ClusterVersion(3, 8)

_REASONS = {
    "simple": "older versions refuse private addresses and use other units for timeouts",
    "native": "the plugin is tested from there on",
    "rich": "older versions cannot pass the search's query to ml_inference",
}


def check_recipe(recipe: str, version: ClusterVersion) -> None:
    """Raise if a version does not support a recipe.

    Raises:
        UnsupportedClusterError: The version is older than the recipe needs.
    """
    minimum = RECIPE_MIN_VERSIONS[recipe]
    if version < minimum:
        raise UnsupportedClusterError(
            f"recipe {recipe!r} does not run on OpenSearch {version}: {_REASONS[recipe]}. "
            f"Use OpenSearch {minimum} or newer."
        )
