"""Two texts, one that answers a question and one that does not, and how a cluster is asked to rank them.

Pure: bodies of requests and readings of answers, for `verify.py` to send and to judge.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from opensearch_qwen_rerank.errors import VerificationError

__all__ = [
    "QUESTION",
    "TEXTS",
    "Stage",
    "documents",
    "model_scores",
    "predict_request",
    "processor_stages",
    "search_body",
    "trial_index",
]

QUESTION: Final = "how to remove limescale from a kettle"
TEXTS: Final = (
    "The lesson for the kettle drum begins at ten.",
    "Vinegar removes the limescale from a kettle in half an hour.",
)
"""The first stage finds both, for they share words with the question."""


def trial_index(pipeline: str) -> str:
    """Name the index that `verify` makes and removes."""
    return f"qwen-rerank-verify-{pipeline}"


@dataclass(frozen=True, slots=True)
class Stage:
    """One step of a verification.

    Attributes:
        name: What was done.
        took_ms: Milliseconds; None where the cluster does not tell.
        detail: What came of it.
    """

    name: str
    took_ms: float | None
    detail: str


def documents(fields: Sequence[str]) -> list[dict[str, Any]]:
    """Give both texts as sources of an index: in the first field, the others missing."""
    sources = []
    for text in TEXTS:
        source: Any = text
        for part in reversed(fields[0].split(".")):
            source = {part: source}
        sources.append(source)
    return sources


def predict_request(recipe: str, model_id: str, fields: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """Give address and body of the request that a pipeline of this recipe makes to its model."""
    if recipe == "simple":
        body: dict[str, Any] = {"query_text": QUESTION, "text_docs": list(TEXTS)}
        return f"/_plugins/_ml/_predict/text_similarity/{model_id}", body
    parameters = {"search": {"query_text": QUESTION}, "documents": documents(fields)}
    return f"/_plugins/_ml/models/{model_id}/_predict", {"parameters": parameters}


def model_scores(recipe: str, answer: Mapping[str, Any]) -> list[float]:
    """Read the scores out of a model's answer, in the order of the texts.

    Raises:
        VerificationError: They are not there, or not one for each text.
    """
    outputs = [one for result in answer.get("inference_results", []) for one in result.get("output", [])]
    if recipe == "simple":
        scores = [one["data"][0] for one in outputs if one.get("data")]
    else:
        scores = outputs[0].get("dataAsMap", {}).get("scores") or [] if outputs else []
    if len(scores) != len(TEXTS):
        raise VerificationError(
            f"the model gave {len(scores)} scores for {len(TEXTS)} texts; "
            "look into the service's log: reranking may be switched off there"
        )
    return [float(score) for score in scores]


def search_body(recipe: str, fields: Sequence[str], query_path: str | None) -> dict[str, Any]:
    """Give a search for the question as the pipeline expects one."""
    if query_path is not None:
        return {**_at_path(query_path, QUESTION), "size": len(TEXTS)}
    body: dict[str, Any] = {"query": {"match": {fields[0]: {"query": QUESTION}}}, "size": len(TEXTS)}
    if recipe == "simple":
        body["ext"] = {"rerank": {"query_context": {"query_text": QUESTION}}}
    else:
        body["ext"] = {"ml_inference": {"query_text": QUESTION}}
    return body


def _at_path(path: str, text: str) -> dict[str, Any]:
    value: Any = text
    for part in reversed(re.findall(r"[^.\[\]]+|\[\d+\]", path)):
        value = [value] if part.startswith("[") else {part: value}
    return dict(value)


def processor_stages(answer: Mapping[str, Any], wall_ms: float) -> list[Stage]:
    """Read what each processor did out of an answer to a search with `verbose_pipeline`.

    Raises:
        VerificationError: One of them failed; its error is told.
    """
    stages = []
    for told in answer.get("processor_results", []):
        name = f"processor {told['processor_name']}"
        if told.get("status") == "fail":
            raise VerificationError(f"{name} failed: {told.get('error')}")
        took = float(told.get("duration_millis") or 0)
        # Version 2.19 counts nanoseconds under this name; no processor takes longer than the search.
        stages.append(Stage(name, took / 1e6 if took > wall_ms else took, "done"))
    return stages
