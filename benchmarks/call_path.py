"""Count what one `rank()` and one HTTP request pass through: functions, calls and record types of the package.

    python benchmarks/call_path.py

Counted on the demo model without a score cache, after a first request has loaded everything: three documents through
`Reranker.rank`, and the same three through `POST /v1/rerank` of the app, without a socket. A function counts once,
whichever thread calls it; comprehensions, generator expressions and lambdas do not count. A record type is a dataclass,
a named tuple or a pydantic model of the package of which an instance is created on the way.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import qwen_rerank_plugins  # noqa: E402
from qwen_rerank_plugins import RerankConfig, Reranker  # noqa: E402

PACKAGE = Path(qwen_rerank_plugins.__file__).resolve().parent
SETTINGS: dict[str, Any] = {"model": "demo", "device": "cpu", "dtype": "float32", "cache_entries": 0}
DOCUMENTS = (
    "The kettle is descaled with vinegar.",
    "Night trains run to Vienna.",
    "Tea is brewed at 80 degrees.",
)
UNCOUNTED = {"<dictcomp>", "<genexpr>", "<lambda>", "<listcomp>", "<module>", "<setcomp>"}


@dataclass(slots=True)
class Trace:
    """What a request passed through.

    Attributes:
        calls: Code of a function of the package → how often it was entered.
        records: Names of the record types of which an instance was created.
    """

    calls: Counter[CodeType] = field(default_factory=Counter)
    records: set[str] = field(default_factory=set)

    def facts(self) -> dict[str, Any]:
        """Return the counts, and the functions of each room, as plain JSON types."""
        rooms = Counter(_room(code) for code in self.calls)
        return {
            "functions": len(self.calls),
            "calls": self.calls.total(),
            "record_types": sorted(self.records),
            "functions_per_room": dict(sorted(rooms.items())),
        }


class Tracer:
    """Profiles all threads that start after it was installed; records only within `recording`."""

    def __init__(self) -> None:
        self._trace: Trace | None = None

    def install(self) -> None:
        """Profile this thread and the ones that it starts."""
        threading.setprofile(self._profile)
        sys.setprofile(self._profile)

    def remove(self) -> None:
        """Stop profiling this thread and new ones."""
        sys.setprofile(None)
        threading.setprofile(None)

    @contextmanager
    def recording(self) -> Iterator[Trace]:
        """Record what every profiled thread enters until the block ends."""
        trace = self._trace = Trace()
        try:
            yield trace
        finally:
            self._trace = None

    def _profile(self, frame: FrameType, event: str, _: object) -> None:
        trace = self._trace
        if trace is None or event != "call":
            return
        code = frame.f_code
        if code.co_filename.startswith(str(PACKAGE)):
            if code.co_name not in UNCOUNTED:
                trace.calls[code] += 1
        elif (created := _created_record(code, frame)) is not None:
            trace.records.add(created)


def _created_record(code: CodeType, frame: FrameType) -> str | None:
    """Return the name of the record type whose generated constructor is entered."""
    if not code.co_filename.startswith("<"):
        return None
    kind = frame.f_locals.get("_cls") or type(frame.f_locals.get("self"))
    is_record = isinstance(kind, type) and (dataclasses.is_dataclass(kind) or hasattr(kind, "_fields"))
    return kind.__name__ if is_record and kind.__module__.startswith("qwen_rerank_plugins") else None


def _room(code: CodeType) -> str:
    """Return the folder, or the module at the root, that a function stands in."""
    parts = Path(code.co_filename).relative_to(PACKAGE).parts
    return "/".join(parts[:-1]) or parts[0]


def trace_rank(tracer: Tracer) -> Trace:
    """Trace one `rank()` of three documents."""
    with Reranker(RerankConfig(**SETTINGS)) as reranker:
        reranker.rank("first", DOCUMENTS)
        with tracer.recording() as trace:
            reranker.rank("how to descale a kettle", DOCUMENTS)
    return trace


async def trace_http(tracer: Tracer) -> Trace:
    """Trace one `POST /v1/rerank` of three documents."""
    import httpx

    from qwen_rerank_plugins.service.app import create_app

    loaded = asyncio.Event()
    app = create_app(RerankConfig(**SETTINGS), announce=lambda event: loaded.set() if event.info else None)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client,
    ):
        await loaded.wait()
        for query in ("first", "second"):
            with tracer.recording() as trace:
                answer = await client.post("/v1/rerank", json={"query": query, "documents": DOCUMENTS})
            answer.raise_for_status()
    return trace


def main(arguments: list[str] | None = None) -> int:
    """Print both traces: a table for people, and a last line of JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args(arguments)
    tracer = Tracer()
    tracer.install()
    try:
        facts = {"rank": trace_rank(tracer).facts(), "http": asyncio.run(trace_http(tracer)).facts()}
    finally:
        tracer.remove()
    for name, one in facts.items():
        print(
            f"{name}: {one['functions']} functions, {one['calls']} calls, {len(one['record_types'])} record types"
        )
        print("  " + ", ".join(one["record_types"]))
        for room, count in one["functions_per_room"].items():
            print(f"  {count:4}  {room}")
    print(json.dumps(facts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
