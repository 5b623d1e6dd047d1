"""Verifies that a pipeline reranks: ranks two texts with the model alone, then as hits of a search through the pipeline.

The searches run on an index that is created for them and always removed, and on one of the user's indices if it is named.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from opensearch_qwen_rerank import smoke_test
from opensearch_qwen_rerank.cluster import Cluster, get_or_none
from opensearch_qwen_rerank.cluster_version import VERBOSE_PIPELINE
from opensearch_qwen_rerank.current_state import CurrentState, read_current_state
from opensearch_qwen_rerank.errors import ForeignObjectError, VerificationError
from opensearch_qwen_rerank.request_bodies import parse_marker, resource_name
from opensearch_qwen_rerank.settings import OpenSearchSettings
from opensearch_qwen_rerank.smoke_test import Stage

__all__ = ["Stage", "VerificationReport", "verify"]

_FLOAT32 = 1e-6
"""Relative tolerance: hits have their score as a 32-bit float."""
_NO_PIPELINE = "_none"
_SEARCH_KEYS = ("recipe", "fields", "query_path")
_MADE_BY = "opensearch-qwen-rerank"
_SMALL: Mapping[str, Any] = {"settings": {"number_of_shards": 1, "number_of_replicas": 0}}


@dataclass(frozen=True, slots=True)
class VerificationReport:
    """The result of a successful verification.

    Attributes:
        pipeline: Name of the pipeline.
        stages: The stages in their order.
        first_stage: Ids of the hits of the user's search without the pipeline; empty if there was none.
        reranked: Ids of the hits of the same search with the pipeline.
        warnings: Observations that are unusual but no errors.
    """

    pipeline: str
    stages: tuple[Stage, ...]
    first_stage: tuple[str, ...] = ()
    reranked: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain JSON types."""
        return asdict(self)


def verify(
    cluster: Cluster,
    settings: OpenSearchSettings,
    *,
    index: str | None = None,
    search: Mapping[str, Any] | None = None,
    on_stage: Callable[[Stage], object] = lambda _: None,
) -> VerificationReport:
    """Rank two texts with the model and with the pipeline, and optionally run a search of the user.

    Args:
        cluster: The cluster.
        settings: The settings, of which only the name of the pipeline is used; the cluster has a record of the others.
        index: Also run `search` on this index, without and with the pipeline.
        search: The body of that search.
        on_stage: Called with each finished stage.

    Raises:
        ClusterError: The cluster cannot be reached, or a request failed.
        VerificationError: The pipeline does not exist, or does not rerank; the message has the cause.
    """
    verification = _Verification(cluster, settings, on_stage)
    scores = verification.check_pipeline(verification.check_model())
    first, reranked = verification.run_search(index, search) if index and search else ((), ())
    warnings = (
        () if scores[1] > scores[0] else (f"the model prefers the text that does not answer: {scores!r}",)
    )
    return VerificationReport(settings.pipeline, tuple(verification.stages), first, reranked, warnings)


class _Verification:
    """One verification, stage by stage."""

    def __init__(
        self, cluster: Cluster, settings: OpenSearchSettings, on_stage: Callable[[Stage], object]
    ) -> None:
        self.cluster = cluster
        self.name = settings.pipeline
        self.stages: list[Stage] = []
        self._on_stage = on_stage
        self.current = read_current_state(cluster, settings.pipeline, resource_name(settings))
        self.model_id, self.search_settings = _applied(self.current, settings.pipeline)
        query_path = self.search_settings["query_path"]
        self._field = smoke_test.sample_field(self.search_settings["fields"], query_path)

    def check_model(self) -> list[float] | None:
        """Rank both texts with the model, and return their scores; None with the recipe native, which has no model."""
        recipe = self.search_settings["recipe"]
        if recipe == "native":
            return None
        path, body = smoke_test.predict_request(recipe, self.model_id, self._field)
        response, took_ms = self._timed("POST", path, body)
        scores = smoke_test.read_scores(recipe, response)
        self._add(Stage("model", took_ms, f"scores {scores[0]:.6g} and {scores[1]:.6g}"))
        return scores

    def check_pipeline(self, scores: list[float] | None) -> list[float]:
        """Search for both texts in an index of their own, and return their scores, which must be the model's."""
        name = smoke_test.smoke_test_index(self.name)
        self._remove_index(name)
        marker = {"mappings": {"_meta": {"made_by": _MADE_BY}}}
        try:
            self.cluster.request("PUT", f"/{name}", {**_SMALL, **marker})
            for place, source in enumerate(smoke_test.sample_documents(self._field)):
                self.cluster.request("PUT", f"/{name}/_doc/{place}", source, {"refresh": "true"})
            body = smoke_test.search_body(*(self.search_settings[key] for key in _SEARCH_KEYS))
            response = self._search(name, body)
        finally:
            self._remove_index(name)
        found = {hit["_id"]: hit["_score"] for hit in response["hits"]["hits"]}
        if not found:
            raise VerificationError(
                f"the search found no text of the field {self._field!r}: {body['query']!r}. Use a query path of a search in "
                "a ranked field."
            )
        if scores is None:
            outcome = response.get("ext", {}).get("qwen_rerank", {})
            if outcome.get("status") != "reranked" or len(found) != len(smoke_test.TEXTS):
                raise VerificationError(f"the pipeline does not rerank: {outcome.get('reason')}.")
            return [found[str(place)] for place in range(len(found))]
        expected = {str(place): score for place, score in enumerate(scores)}
        is_right = found.keys() == expected.keys() and all(
            math.isclose(found[key], expected[key], rel_tol=_FLOAT32, abs_tol=_FLOAT32) for key in found
        )
        if not is_right:
            raise VerificationError(
                f"the pipeline's hits do not have the model's scores: {found!r} instead of {expected!r}."
            )
        return scores

    def run_search(self, index: str, search: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Run the user's search without and with the pipeline, and return the ids of the hits of both."""
        plain, took_ms = self._timed("POST", f"/{index}/_search", search, {"search_pipeline": _NO_PIPELINE})
        first = _ids(plain)
        self._add(Stage(f"first stage of {index}", took_ms, f"{len(first)} hits"))
        return first, _ids(self._search(index, search))

    def _search(self, index: str, body: Mapping[str, Any]) -> Any:
        params = {"search_pipeline": self.name}
        if self.current.version >= VERBOSE_PIPELINE:
            params["verbose_pipeline"] = "true"
        response, took_ms = self._timed("POST", f"/{index}/_search", body, params)
        self._add(Stage(f"search of {index}", took_ms, f"{len(response['hits']['hits'])} hits"))
        for stage in smoke_test.processor_stages(response, took_ms):
            self._add(stage)
        return response

    def _timed(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any],
        params: Mapping[str, str] | None = None,
    ) -> tuple[Any, float]:
        started_s = time.perf_counter()
        response = self.cluster.request(method, path, body, params)
        return response, (time.perf_counter() - started_s) * 1e3

    def _add(self, stage: Stage) -> None:
        self.stages.append(stage)
        self._on_stage(stage)

    def _remove_index(self, name: str) -> None:
        """Remove the index of the smoke test, if it exists."""
        found = get_or_none(self.cluster, f"/{name}")
        if found is None:
            return
        if found[name]["mappings"].get("_meta", {}).get("made_by") != _MADE_BY:
            raise ForeignObjectError(
                f"an index {name!r} exists that this command did not create. Delete it, or choose another --pipeline."
            )
        self.cluster.request("DELETE", f"/{name}")


def _applied(current: CurrentState, pipeline: str) -> tuple[str, Mapping[str, Any]]:
    """Return the model's id, empty with the recipe native, and the recorded settings of a pipeline that was applied."""
    record = current.ownership.records.get(pipeline)
    marker = parse_marker((current.pipeline or {}).get("description"))
    is_native = record is not None and record.search_settings.get("recipe") == "native"
    if record is None or marker is None or (current.model is None and not is_native):
        raise VerificationError(f"the pipeline {pipeline!r} was not applied. Run `apply` first.")
    if record.pending:
        raise VerificationError(f"`apply` of the pipeline {pipeline!r} was interrupted. Run it again.")
    return "" if current.model is None else current.model.id, record.search_settings


def _ids(response: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(hit["_id"] for hit in response["hits"]["hits"])
