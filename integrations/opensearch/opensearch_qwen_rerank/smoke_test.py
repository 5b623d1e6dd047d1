"""The smoke test of `verify`: two texts, one of which answers a question, and the requests that rank them.

Pure functions: request bodies, and scores read from responses. `verification.py` sends the requests.
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
    "predict_request",
    "processor_stages",
    "read_scores",
    "sample_documents",
    "sample_field",
    "search_body",
    "smoke_test_index",
]

QUESTION: Final = "how to remove limescale from a kettle"
TEXTS: Final = (
    "The lesson for the kettle drum begins at ten.",
    "Vinegar removes the limescale from a kettle in half an hour.",
)
"""Both share words with the question, so that the first stage finds both."""


def smoke_test_index(pipeline: str) -> str:
    """Return the name of the index that `verify` creates and removes."""
    return f"qwen-rerank-verify-{pipeline}"


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of a verification.

    Attributes:
        name: What was done.
        took_ms: Duration in milliseconds; None if the cluster does not report it.
        detail: The outcome.
    """

    name: str
    took_ms: float | None
    detail: str


def sample_field(fields: Sequence[str], query_path: str | None) -> str:
    """Return the ranked field that has the texts: the one in which a search with this query path searches, or the first."""
    path = f".{query_path}."
    return next((field for field in fields if f".{field}." in path), fields[0])


def sample_documents(field: str) -> list[dict[str, Any]]:
    """Return both texts as documents with this field only."""
    sources = []
    for text in TEXTS:
        source: Any = text
        for part in reversed(field.split(".")):
            source = {part: source}
        sources.append(source)
    return sources


def predict_request(recipe: str, model_id: str, field: str) -> tuple[str, dict[str, Any]]:
    """Return path and body of the request that a pipeline of this recipe sends to its model."""
    if recipe == "simple":
        body: dict[str, Any] = {"query_text": QUESTION, "text_docs": list(TEXTS)}
        return f"/_plugins/_ml/_predict/text_similarity/{model_id}", body
    parameters = {"search": {"query_text": QUESTION}, "documents": sample_documents(field)}
    return f"/_plugins/_ml/models/{model_id}/_predict", {"parameters": parameters}


def read_scores(recipe: str, response: Mapping[str, Any]) -> list[float]:
    """Read the scores from a model's response, in the order of the texts.

    Raises:
        VerificationError: The response does not have one score per text.
    """
    outputs = [one for result in response.get("inference_results", []) for one in result.get("output", [])]
    if recipe == "simple":
        scores = [one["data"][0] for one in outputs if one.get("data")]
    else:
        scores = outputs[0].get("dataAsMap", {}).get("scores") or [] if outputs else []
    if len(scores) != len(TEXTS):
        raise VerificationError(
            f"the model returned {len(scores)} scores for {len(TEXTS)} texts. "
            "Check the log of the rerank service, where reranking may be disabled."
        )
    return [float(score) for score in scores]


def search_body(recipe: str, fields: Sequence[str], query_path: str | None) -> dict[str, Any]:
    """Return a search for the question, in the form that the pipeline expects."""
    if query_path is not None:
        return {**_at_path(query_path, QUESTION), "size": len(TEXTS)}
    body: dict[str, Any] = {"query": {"match": {fields[0]: {"query": QUESTION}}}, "size": len(TEXTS)}
    if recipe == "native":
        return body
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


def processor_stages(response: Mapping[str, Any], wall_ms: float) -> list[Stage]:
    """Read the result of each processor from the response to a search with `verbose_pipeline`.

    Raises:
        VerificationError: A processor failed; the message has its error.
    """
    stages = []
    for result in response.get("processor_results", []):
        name = f"processor {result['processor_name']}"
        if result.get("status") == "fail":
            raise VerificationError(f"{name} failed: {result.get('error')}")
        took = float(result.get("duration_millis") or 0)
        # Version 2.19 returns nanoseconds under this name. No processor takes longer than the search.
        stages.append(Stage(name, took / 1e6 if took > wall_ms else took, "done"))
    return stages
