"""Faults that are injected repeatedly into a running service. Each names the statuses that it explains, and waits for its end.

A disturbance is a function `(soak, draw) -> None` that returns when the service has recovered.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import socket
import struct
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from email.utils import parsedate_to_datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

from qwen_rerank_plugins import RerankConfig, ScoreRequest
from tests.ray.clusters import killing_one
from tests.soak.requests import TOLERANCE, Request, draw_request

if TYPE_CHECKING:
    from qwen_rerank_plugins.ray import ActorPoolScorer
    from tests.soak.soak import Soak

Disturbance = Callable[["Soak", random.Random], Awaitable[None]]

DEATHS_OF_A_DEVICE = 4
"""Deaths of the engine's thread in a row, after which its device is out of service and the engine is rebuilt."""

CLOCK = "clock"
"""The file with the offset of the service's clock, in seconds."""

CLOCK_TOLERANCE_S = 60.0

LINGER_OFF = struct.pack("ii", 1, 0)
"""SO_LINGER: closing resets the connection."""


async def cancelled_requests(soak: Soak, draw: random.Random) -> None:
    """Clients that close their connection before the answer."""
    async with soak.http() as http:
        requests = [draw_request(soak.groups, draw) for _ in range(8)]
        tasks = [asyncio.create_task(soak.ledger.send(http, request)) for request in requests]
        for task in tasks:
            await asyncio.sleep(draw.uniform(0.0, 0.02))
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def half_open_sockets(soak: Soak, draw: random.Random) -> None:
    """Clients that send nothing, half a head or half a body; some wait to be cut off, some reset the connection."""
    head, body = raw_parts(draw_request(soak.groups, draw))
    beginnings = (b"", head[: len(head) // 2], head + body[: len(body) // 2])
    await asyncio.gather(*(_half_open(soak, sent, resets=draw.random() < 0.5) for sent in beginnings))


async def _half_open(soak: Soak, sent: bytes, *, resets: bool) -> None:
    reader, writer = await soak.connect()
    writer.write(sent)
    await writer.drain()
    if resets:
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_OFF)
    else:
        answer = await reader.read()
        if answer and not answer.startswith((b"HTTP/1.1 408 ", b"HTTP/1.1 503 ")):
            soak.ledger.problems.append(f"a silent client was answered {answer[:100]!r}")
    writer.close()
    await writer.wait_closed()


async def slow_clients(soak: Soak, draw: random.Random) -> None:
    """A client that sends its request and reads its answer in small pieces."""
    request = draw_request(soak.groups, draw)
    head, body = raw_parts(request)
    soak.ledger.num_sent += 1
    start_s = time.monotonic()
    reader, writer = await soak.connect()
    raw = head + body
    step = len(raw) // 20 + 1
    for at in range(0, len(raw), step):
        writer.write(raw[at : at + step])
        await writer.drain()
        await asyncio.sleep(0.01)
    answer_head = await reader.readuntil(b"\r\n\r\n")
    length = int(answer_head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
    content = b""
    while len(content) < length:
        content += await reader.read(min(step, length - len(content)))
        await asyncio.sleep(0.001)
    soak.ledger.check(request, int(answer_head.split(b" ", 2)[1]), content, start_s)
    writer.close()
    await writer.wait_closed()


def raw_parts(request: Request) -> tuple[bytes, bytes]:
    """Return head and body of a request."""
    body = json.dumps(request.body).encode()
    head = (
        f"POST {request.path} HTTP/1.1\r\nHost: localhost\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode(), body


async def engine_death(soak: Soak, draw: random.Random) -> None:
    """The engine's thread dies in a batch, and is started again."""
    await inject(soak, "death")


async def engine_rebuild(soak: Soak, draw: random.Random) -> None:
    """The engine's thread dies again and again, until the service rebuilds the engine."""
    await inject(soak, *["death"] * DEATHS_OF_A_DEVICE)


async def engine_failures(soak: Soak, draw: random.Random) -> None:
    """A batch fails, and another runs out of memory."""
    await inject(soak, "failure", "out-of-memory")


async def inject(soak: Soak, *faults: str) -> None:
    """Make batches fail, and wait until the service scores again."""
    async with soak.engine:
        with soak.ledger.excused(500, 503):
            files = [soak.folder / "faults" / f"{fault}_{number}" for number, fault in enumerate(faults)]
            for file in files:
                file.touch()
            while any(file.exists() for file in files):
                await asyncio.sleep(0.1)
            await soak.recovered()


async def full_disk(soak: Soak, draw: random.Random) -> None:
    """The disk of jobs and cache is full for a while; jobs fail with 507, and requests are scored."""
    groups = soak.groups[:5]
    with soak.ledger.excused(507), soak.full_disk(soak.process.pid):
        await soak.jobs.run(groups, padding="x" * 20_000)
        await asyncio.sleep(draw.uniform(0.5, 2.0))
    await soak.jobs.run(groups)


async def replaced_checkpoint(soak: Soak, draw: random.Random) -> None:
    """A file of the checkpoint is replaced or truncated for a while; the loaded model does not notice."""
    file = draw.choice(sorted((soak.folder / "checkpoint").iterdir()))
    original = file.read_bytes()
    async with soak.engine:
        damage(file, b"not a checkpoint", draw)
        await asyncio.sleep(draw.uniform(0.5, 2.0))
        file.write_bytes(original)


def damage(file: Path, other: bytes, draw: random.Random) -> None:
    """Replace a file by another, or cut off its second half in place."""
    if draw.random() < 0.5:
        replacement = file.with_name("replacement")
        replacement.write_bytes(other)
        replacement.replace(file)
    else:
        os.truncate(file, file.stat().st_size // 2)


async def replaced_upload(soak: Soak, draw: random.Random) -> None:
    """The file of a running job is replaced or truncated; the job ends with the right rows or with 422."""
    groups = soak.groups
    start_s = time.monotonic()
    with soak.ledger.excused(422):
        job_id = await soak.jobs.upload(groups)
        if job_id is None:
            return
        with suppress(FileNotFoundError):  # the job may be finished
            damage(soak.jobs_folder / job_id / "input.csv", b"query,document\na,b\n", draw)
        await soak.jobs.finish(job_id, groups, start_s)


async def clock_jumps(soak: Soak, draw: random.Random) -> None:
    """The system's clock jumps by up to a day, forward or back. The monotonic clock goes on."""
    offset_s = draw.randint(-86_400, 86_400)
    (soak.folder / CLOCK).write_text(f"{offset_s:+d}", encoding="utf-8")
    async with soak.http() as http:
        while abs(_date(await http.get("/health")) - time.time() - offset_s) > CLOCK_TOLERANCE_S:
            await asyncio.sleep(0.5)


def _date(answer: httpx.Response) -> float:
    return parsedate_to_datetime(answer.headers["date"]).timestamp()


UNDAMAGED = "undamaged_checkpoint"
"""The folder of Ray's workers, which load their checkpoint again whenever one is killed."""


async def killed_ray_workers(soak: Soak, draw: random.Random) -> None:
    """A worker of a Ray cluster is killed while it scores; its pairs are scored by another."""
    await asyncio.to_thread(_score_while_killing, soak)


def _score_while_killing(soak: Soak) -> None:
    scorer = _ray_scorer(str(soak.folder / UNDAMAGED))
    pairs = [ScoreRequest(group.query, document) for group in soak.groups for document in group.documents]
    with killing_one("ray::ScoringWorker"):
        scores = scorer.score(pairs)
    wanted = [score for group in soak.groups for score in group.scores]
    if any(abs(one.relevance_score - other) > TOLERANCE for one, other in zip(scores, wanted, strict=True)):
        soak.ledger.problems.append("scores of Ray's workers differ")


@cache
def _ray_scorer(model: str) -> ActorPoolScorer:
    """Return a pool of two workers, which end with the cluster."""
    from qwen_rerank_plugins.ray import ActorPoolScorer, ActorPoolSettings

    config = RerankConfig(model=model, device="cpu", dtype="float32", cache_entries=0)
    return ActorPoolScorer(config, ActorPoolSettings(num_workers=2))


ALWAYS: tuple[Disturbance, ...] = (
    cancelled_requests,
    half_open_sockets,
    slow_clients,
    engine_death,
    engine_failures,
    engine_rebuild,
    full_disk,
    replaced_checkpoint,
    replaced_upload,
)
LONG: tuple[Disturbance, ...] = (clock_jumps, killed_ray_workers)
