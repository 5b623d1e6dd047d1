"""The call-path count covers every thread, and nothing outside the package."""

from __future__ import annotations

import json

import pytest

from benchmarks import call_path
from qwen_rerank_plugins import Reranker


@pytest.mark.loopback
def test_it_counts_functions_calls_and_records_of_both_ways(capsys: pytest.CaptureFixture[str]) -> None:
    assert call_path.main([]) == 0
    facts = json.loads(capsys.readouterr().out.splitlines()[-1])
    rank, http = facts["rank"], facts["http"]
    assert {"ranking.py", "core/model", "core/prompts", "core/scheduler"} <= set(rank["functions_per_room"])
    assert {"RankedDocument", "PackedForest"} <= set(rank["record_types"]), (
        "the second stands in the worker's thread"
    )
    assert rank["functions"] == sum(rank["functions_per_room"].values()) < rank["calls"]
    assert {"service/api", "service/schemas"} <= set(http["functions_per_room"]) - set(
        rank["functions_per_room"]
    )
    assert set(rank["record_types"]) < set(http["record_types"])


def test_nothing_is_counted_outside_a_recording() -> None:
    tracer = call_path.Tracer()
    with tracer.recording() as trace:
        pass
    tracer.install()
    try:
        Reranker(backend="lexical").rank("a", ["b"])
    finally:
        tracer.remove()
    assert not trace.calls
