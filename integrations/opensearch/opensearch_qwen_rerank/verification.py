"""Whether a pipeline reranks: two texts through the model alone, then as hits of a search through the pipeline.

The searches run on an index made for it, which is removed in any case, and on one of the caller's if it is named.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from opensearch_qwen_rerank import trial
from opensearch_qwen_rerank.bodies import object_name, parse_marker
from opensearch_qwen_rerank.cluster import Cluster, find
from opensearch_qwen_rerank.errors import ForeignObjectError, VerificationError
from opensearch_qwen_rerank.settings import OpenSearchSettings
from opensearch_qwen_rerank.state import Found, read_state
from opensearch_qwen_rerank.trial import Stage
from opensearch_qwen_rerank.version import VERBOSE_PIPELINE

__all__ = ["Report", "Stage", "verify"]

_FLOAT32 = 1e-6
"""Hits carry their score as a 32-bit float: this is the relative error that they may have."""
_NO_PIPELINE = "_none"


@dataclass(frozen=True, slots=True)
class Report:
    """What a verification found; that there is one says that the pipeline reranks.

    Attributes:
        pipeline: Which one.
        stages: What was done, in order.
        first_stage: Ids of the caller's hits without the pipeline; empty where no index was named.
        reranked: Ids of the same search with it.
        warnings: What is odd without being wrong.
    """

    pipeline: str
    stages: tuple[Stage, ...]
    first_stage: tuple[str, ...] = ()
    reranked: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Give it as plain JSON types."""
        return asdict(self)


def verify(
    cluster: Cluster,
    settings: OpenSearchSettings,
    *,
    index: str | None = None,
    search: Mapping[str, Any] | None = None,
    tell: Callable[[Stage], object] = lambda _: None,
) -> Report:
    """Rank two texts through the model and through the pipeline, and perhaps run a search of the caller's.

    Args:
        cluster: Where.
        settings: Of which only the pipeline's name counts; what it is made of was remembered in the cluster.
        index: Also run `search` there, without the pipeline and with it.
        search: The body of that search.
        tell: Is called with each stage when it is done.

    Raises:
        ClusterError: The cluster cannot be reached, or a request fails.
        VerificationError: The pipeline is not there, or it does not rerank; the message has the cause.
    """
    check = _Check(cluster, settings, tell)
    scores = check.model()
    check.pipeline(scores)
    first, reranked = check.own_search(index, search) if index and search else ((), ())
    warnings = (
        () if scores[1] > scores[0] else (f"the model prefers the text that does not answer: {scores!r}",)
    )
    return Report(settings.pipeline, tuple(check.stages), first, reranked, warnings)


class _Check:
    """One verification, stage by stage."""

    def __init__(
        self, cluster: Cluster, settings: OpenSearchSettings, tell: Callable[[Stage], object]
    ) -> None:
        self.cluster = cluster
        self.name = settings.pipeline
        self.stages: list[Stage] = []
        self._tell = tell
        self.found = read_state(cluster, settings.pipeline, object_name(settings))
        self.model_id, self.about = _applied(self.found, settings.pipeline)

    def model(self) -> list[float]:
        """Rank both texts through the model, and give their scores."""
        path, body = trial.predict_request(self.about["recipe"], self.model_id, self.about["fields"])
        answer, took_ms = self._timed("POST", path, body)
        scores = trial.model_scores(self.about["recipe"], answer)
        self._add(Stage("model", took_ms, f"scores {scores[0]:.6g} and {scores[1]:.6g}"))
        return scores

    def pipeline(self, scores: list[float]) -> None:
        """Find both texts in an index of their own, and compare hits with what the model said."""
        name = trial.trial_index(self.name)
        self._remove_leftover(name)
        mark = {"mappings": {"_meta": {"made_by": "opensearch-qwen-rerank"}}}
        try:
            self.cluster.request("PUT", f"/{name}", {**_SMALL, **mark})
            for place, source in enumerate(trial.documents(self.about["fields"])):
                self.cluster.request("PUT", f"/{name}/_doc/{place}", source, {"refresh": "true"})
            body = trial.search_body(self.about["recipe"], self.about["fields"], self.about["query_path"])
            hits = self._search(name, body)["hits"]["hits"]
        finally:
            self._remove_leftover(name)
        told = {hit["_id"]: hit["_score"] for hit in hits}
        expected = {str(place): score for place, score in enumerate(scores)}
        right = told.keys() == expected.keys() and all(
            math.isclose(told[key], expected[key], rel_tol=_FLOAT32, abs_tol=_FLOAT32) for key in told
        )
        if not right:
            raise VerificationError(
                f"the pipeline's hits do not have the model's scores: {told!r}; expected: {expected!r}"
            )

    def own_search(self, index: str, search: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Run the caller's search without the pipeline and with it, and give the ids of both answers' hits."""
        plain, took_ms = self._timed("POST", f"/{index}/_search", search, {"search_pipeline": _NO_PIPELINE})
        first = _ids(plain)
        self._add(Stage(f"first stage of {index}", took_ms, f"{len(first)} hits"))
        return first, _ids(self._search(index, search))

    def _search(self, index: str, body: Mapping[str, Any]) -> Any:
        params = {"search_pipeline": self.name}
        if self.found.version >= VERBOSE_PIPELINE:
            params["verbose_pipeline"] = "true"
        answer, took_ms = self._timed("POST", f"/{index}/_search", body, params)
        self._add(Stage(f"search of {index}", took_ms, f"{len(answer['hits']['hits'])} hits"))
        for stage in trial.processor_stages(answer, took_ms):
            self._add(stage)
        return answer

    def _timed(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any],
        params: Mapping[str, str] | None = None,
    ) -> tuple[Any, float]:
        started = time.perf_counter()
        answer = self.cluster.request(method, path, body, params)
        return answer, (time.perf_counter() - started) * 1e3

    def _add(self, stage: Stage) -> None:
        self.stages.append(stage)
        self._tell(stage)

    def _remove_leftover(self, name: str) -> None:
        """Remove the index of this name, which this command alone makes."""
        told = find(self.cluster, f"/{name}")
        if told is None:
            return
        if told[name]["mappings"].get("_meta", {}).get("made_by") != "opensearch-qwen-rerank":
            raise ForeignObjectError(f"an index {name!r} is there that was not made by this command")
        self.cluster.request("DELETE", f"/{name}")


_SMALL: Mapping[str, Any] = {"settings": {"number_of_shards": 1, "number_of_replicas": 0}}


def _applied(found: Found, pipeline: str) -> tuple[str, Mapping[str, Any]]:
    record = found.memory.records.get(pipeline)
    marker = parse_marker((found.pipeline or {}).get("description"))
    if found.model is None or record is None or marker is None:
        raise VerificationError(f"the pipeline {pipeline!r} was not applied; allowed: after `apply`")
    if record.pending:
        raise VerificationError(f"applying the pipeline {pipeline!r} was interrupted; allowed: `apply` again")
    return found.model.id, record.about


def _ids(answer: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(hit["_id"] for hit in answer["hits"]["hits"])
