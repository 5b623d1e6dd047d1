"""Which OpenSearch version can do what. The numbers are those in which each thing was released; nothing is probed."""

from __future__ import annotations

import re
from typing import NamedTuple

from opensearch_qwen_rerank.errors import UnsupportedClusterError

__all__ = [
    "NESTED_FIELDS",
    "PREVIOUS_SCORE_FIELD",
    "PRIVATE_ENDPOINTS",
    "RECIPES_SINCE",
    "SKIP_VALIDATION",
    "VERBOSE_PIPELINE",
    "ClusterVersion",
    "check_recipe",
]


class ClusterVersion(NamedTuple):
    """A release; compares as one expects."""

    major: int
    minor: int
    patch: int = 0

    @classmethod
    def parse(cls, text: str) -> ClusterVersion:
        """Read `3.6.0`, also `3.7.0-SNAPSHOT`.

        Raises:
            UnsupportedClusterError: It is nothing of the kind.
        """
        found = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", text)
        if found is None:
            raise UnsupportedClusterError(f"the cluster has no version: {text!r}; allowed: such as '3.6.0'")
        return cls(*(int(part or 0) for part in found.groups()))

    def __str__(self) -> str:
        """Give it as it is usually written."""
        return f"{self.major}.{self.minor}.{self.patch}"


# Private addresses may be called at all, timeouts are seconds, and a connector may say how calls are repeated.
SIMPLE = ClusterVersion(2, 15)
# `ext.ml_inference`; `rerank.by_field` and `$._request` are one minor version older.
RICH = ClusterVersion(2, 19)
RECIPES_SINCE = {"simple": SIMPLE, "rich": RICH}

# `skip_validating_missing_parameters`: a document that holds "${parameters.x}" does not fail the search.
SKIP_VALIDATION = ClusterVersion(2, 17)
# `verbose_pipeline=true` tells what each processor did.
VERBOSE_PIPELINE = ClusterVersion(2, 19)
# Dotted `document_fields`; before, such a field was silently empty.
NESTED_FIELDS = ClusterVersion(3, 6)
# `trusted_connector_private_endpoints_regex`, a second list that private addresses must be on.
PRIVATE_ENDPOINTS = ClusterVersion(3, 7)
# `previous_score_field` of `rerank.by_field`; before, the name was fixed.
PREVIOUS_SCORE_FIELD = ClusterVersion(3, 8)

_REASONS = {
    "simple": "before, a connector could not call a private address, and its timeouts had other units",
    "rich": "before, a search had no place to tell ml_inference its query",
}


def check_recipe(recipe: str, version: ClusterVersion) -> None:
    """Refuse a version that cannot run a recipe.

    Raises:
        UnsupportedClusterError: It is older than the recipe needs.
    """
    since = RECIPES_SINCE[recipe]
    if version < since:
        raise UnsupportedClusterError(
            f"recipe {recipe!r} does not run on OpenSearch {version}; allowed: {since} and newer "
            f"({_REASONS[recipe]})"
        )
