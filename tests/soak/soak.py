"""A soak: clients, jobs and disturbances against one service, and the figures of it.

    python -m tests.soak.soak --minutes 60

Run it from the root of the repository. The last line is one JSON document; the exit code is 1 if there is a problem.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.service.jobs.uploads import entries
from tests.service.servers import RunningProcess, running_process
from tests.soak.disks import FullDisk, small_disk
from tests.soak.disturbances import (
    ALWAYS,
    CLOCK,
    LONG,
    UNDAMAGED,
    Disturbance,
    clock_jumps,
    killed_ray_workers,
)
from tests.soak.jobs import Jobs
from tests.soak.ledger import Ledger
from tests.soak.measurements import Figures, Sample, growth
from tests.soak.requests import Group, draw_request, make_groups, tiny_checkpoint

NUM_CLIENTS = 8
NUM_GROUPS = 60
PATIENCE_S = 300.0
"""A request without an answer after this time counts as lost."""

WARM_UP = 20_000
LIBFAKETIME = "lib*/**/libfaketimeMT.so.1"


@dataclass(frozen=True, slots=True)
class Plan:
    """How long a soak runs, and what disturbs it.

    Attributes:
        minutes: Duration after the warm-up; longer if a disturbance has not struck by then.
        warm_up: Requests before the first sample.
        disturbances: What strikes.
        max_pause_s: Longest time between two strikes of a disturbance; the first strike comes within a quarter of it.
        is_warm_up_calm: Whether nothing strikes during the warm-up.
    """

    minutes: float
    warm_up: int
    disturbances: Sequence[Disturbance]
    max_pause_s: float
    is_warm_up_calm: bool = False


DOSE = Plan(minutes=0.3, warm_up=300, disturbances=ALWAYS, max_pause_s=40.0, is_warm_up_calm=True)


def long_plan(minutes: float, warm_up: int = WARM_UP) -> Plan:
    """Return the plan of a long run."""
    return Plan(minutes=minutes, warm_up=warm_up, disturbances=(*ALWAYS, *LONG), max_pause_s=180.0)


@dataclass(slots=True)
class Soak:
    """One service under load.

    Attributes:
        service: The service.
        process: Its process.
        folder: Where its files are: checkpoint, faults and the clock's offset.
        full_disk: Fills the disk of `folder / "disk"`.
        groups: Queries and documents with known scores.
        ledger: The requests.
        jobs: The jobs.
        struck: How often each disturbance was applied.
        samples: Samples after the warm-up.
        engine: Held while the engine fails, and while the checkpoint's files are damaged: a rebuild would load them.
    """

    service: RunningProcess
    process: psutil.Process
    folder: Path
    full_disk: FullDisk
    groups: list[Group]
    jobs: Jobs
    ledger: Ledger
    struck: Counter[str] = field(default_factory=Counter)
    samples: list[Sample] = field(default_factory=list)
    engine: asyncio.Lock = field(default_factory=asyncio.Lock)
    _stopped: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def jobs_folder(self) -> Path:
        """The folder of the service's jobs."""
        return self.folder / "disk" / "jobs"

    def http(self) -> httpx.AsyncClient:
        """Return a client with connections of its own."""
        return http_client(self.service.base_url)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a connection to the service."""
        return await asyncio.open_connection("127.0.0.1", int(self.service.base_url.rpartition(":")[2]))

    async def recovered(self) -> None:
        """Wait until the service scores a new pair, and then is ready."""
        async with self.http() as http:
            await self._until_ok(http, "/v1/rerank", {"query": "probe", "documents": [str(time.time_ns())]})
            await self._until_ok(http, "/ready")

    async def _until_ok(self, http: httpx.AsyncClient, path: str, body: Any = None) -> None:
        while (await http.request("POST" if body else "GET", path, json=body)).status_code != httpx.codes.OK:
            await asyncio.sleep(0.1)

    async def run(self, plan: Plan) -> Figures:
        """Warm up, soak, and return the figures."""
        start_s = time.monotonic()
        warm_up = replace(plan, disturbances=()) if plan.is_warm_up_calm else plan
        await self._until(lambda: self.ledger.num_answered >= plan.warm_up, warm_up)
        before = await self._idle()
        self.samples.clear()
        self.struck.clear()
        end_s = time.monotonic() + 60 * plan.minutes
        await self._until(
            lambda: time.monotonic() >= end_s and len(self.struck) == len(plan.disturbances), plan
        )
        after = await self._idle()
        await self._check_counters()
        minutes = (time.monotonic() - start_s) / 60
        return self._figures(minutes, before, after)

    async def _until(self, is_done: Any, plan: Plan) -> None:
        """Keep clients, jobs and disturbances busy until a condition holds."""
        self._stopped.clear()
        draw = random.Random(self.ledger.num_sent)
        async with asyncio.TaskGroup() as tasks:
            for _ in range(NUM_CLIENTS):
                tasks.create_task(self._request(random.Random(draw.random())))
            tasks.create_task(self._upload(random.Random(draw.random())))
            for disturbance in plan.disturbances:
                tasks.create_task(self._disturb(disturbance, random.Random(draw.random()), plan.max_pause_s))
            while not is_done():
                await asyncio.sleep(1.0)
                self.samples.append(Sample.of(self.process, self.ledger.num_answered))
            self._stopped.set()

    async def _request(self, draw: random.Random) -> None:
        async with self.http() as http:
            while not self._stopped.is_set():
                await self.ledger.send(http, draw_request(self.groups, draw))

    async def _upload(self, draw: random.Random) -> None:
        while not self._stopped.is_set():
            await self.jobs.run(draw.sample(self.groups, draw.randint(1, 40)))

    async def _disturb(self, disturbance: Disturbance, draw: random.Random, max_pause_s: float) -> None:
        pause_s = draw.uniform(0.0, max_pause_s / 4)
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._stopped.wait()
                    return
            await disturbance(self, draw)
            self.struck[disturbance.__name__] += 1
            pause_s = draw.uniform(0.0, max_pause_s)

    async def _idle(self) -> Sample:
        """Measure the service when it has no connection but one."""
        async with self.http() as http:
            while (connections := len(self.process.net_connections("tcp"))) > 2:
                await asyncio.sleep(0.1)
                await http.get("/health")
            del connections
            await asyncio.sleep(1.0)
            return Sample.of(self.process, self.ledger.num_answered)

    async def _check_counters(self) -> None:
        """Check that the service has answered or cancelled what it accepted, and keeps no job."""
        async with self.http() as http:
            text = (await http.get("/metrics")).text
        values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
        accepted, answered, cancelled = (
            float(values[f"rerank_{name}_total"]) for name in ("accepted", "answered", "cancelled")
        )
        if float(values["rerank_pending_requests"]) or accepted != answered + cancelled:
            self.ledger.problems.append(f"accepted {accepted}, answered {answered}, cancelled {cancelled}")
        if self.ledger.num_sent != self.ledger.num_answered + self.ledger.num_cancelled:
            self.ledger.problems.append("not every request was answered or cancelled by its client")
        if left := entries(self.jobs_folder):
            self.ledger.problems.append(f"files of removed jobs are left: {sorted(left)[:5]}")

    def _figures(self, minutes: float, before: Sample, after: Sample) -> Figures:
        ledger = self.ledger
        requests = {"sent": ledger.num_sent, "cancelled by their client": ledger.num_cancelled}
        requests |= {f"answered with {status}": n for status, n in sorted(ledger.statuses.items())}
        return Figures(
            minutes=minutes,
            requests=requests,
            jobs=dict(sorted(self.jobs.outcomes.items())),
            disturbances=dict(sorted(self.struck.items())),
            max_difference=ledger.max_difference,
            before=before,
            after=after,
            num_samples=len(self.samples),
            growth={name: growth(self.samples, name) for name in ("rss_mb", "num_fds", "num_threads")},
            problems=ledger.problems,
        )


def http_client(base_url: str) -> httpx.AsyncClient:
    """Return a client that sees no proxy of this machine."""
    return httpx.AsyncClient(base_url=base_url, trust_env=False, timeout=PATIENCE_S)


@asynccontextmanager
async def soaking(folder: Path, environment: dict[str, str]) -> AsyncIterator[Soak]:
    """Start a service with a tiny checkpoint, small caches and a small disk."""
    with ExitStack() as stack:
        full_disk = stack.enter_context(small_disk(folder / "disk"))
        (folder / "faults").mkdir()
        model = str(tiny_checkpoint(folder / "checkpoint"))
        shutil.copytree(model, folder / UNDAMAGED)
        engine: dict[str, Any] = {"model": model, "device": "cpu", "dtype": "float32", "num_threads": 1}
        groups = make_groups(NUM_GROUPS, engine)
        service = stack.enter_context(
            running_process(
                folder,
                config=engine
                | {
                    "prefix_cache_mb": 2,
                    "cache_entries": 200,
                    "cache_path": str(folder / "disk" / "scores.sqlite"),
                    "cache_disk_entries": 200,
                },
                settings={
                    "jobs_folder": str(folder / "disk" / "jobs"),
                    "jobs_max_per_key": 1000,
                    "jobs_retention_s": 30 * 86_400,  # longer than the clock jumps
                    "receive_timeout_s": 10.0,
                    "request_timeout_s": PATIENCE_S,
                },
                program="tests.soak.serve_with_faults",
                # as start.sh and deploy/Dockerfile set it
                environment={"SOAK_FAULTS": str(folder / "faults"), "MALLOC_ARENA_MAX": "2"} | environment,
            )
        )
        ledger = Ledger()
        async with http_client(service.base_url) as http:
            yield Soak(
                service,
                psutil.Process(service.process.pid),
                folder,
                full_disk,
                groups,
                Jobs(http, ledger),
                ledger,
            )


def faked_clock(folder: Path) -> dict[str, str]:
    """Return the variables that let the service read its clock through libfaketime.

    Raises:
        FileNotFoundError: libfaketime is not installed.
    """
    found = next(Path("/usr").glob(LIBFAKETIME), None)
    if found is None:
        raise FileNotFoundError("libfaketime is not installed (Debian: apt-get install faketime)")
    (folder / CLOCK).write_text("+0", encoding="utf-8")
    return {
        "LD_PRELOAD": str(found),
        "FAKETIME_TIMESTAMP_FILE": str(folder / CLOCK),
        "FAKETIME_CACHE_DURATION": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }


async def soak(folder: Path, plan: Plan) -> Figures:
    """Carry out a plan."""
    with ExitStack() as stack:
        environment = faked_clock(folder) if clock_jumps in plan.disturbances else {}
        if killed_ray_workers in plan.disturbances:
            from tests.ray.conftest import running_cluster

            stack.enter_context(running_cluster())
        async with soaking(folder, environment) as running:
            return await running.run(plan)


def main(arguments: list[str] | None = None) -> int:
    """Soak for some minutes and print the figures; 1 if there is a problem."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak.soak", description="Soaks the service.")
    parser.add_argument(
        "--minutes", type=float, default=60.0, help="duration after the warm-up (default: 60)"
    )
    parser.add_argument("--warm-up", type=int, default=WARM_UP, help=f"requests before (default: {WARM_UP})")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        figures = asyncio.run(soak(Path(folder), long_plan(options.minutes, options.warm_up)))
    print(*figures.problems, figures.table(), figures.to_json(), sep="\n")
    return 1 if figures.problems else 0


if __name__ == "__main__":
    sys.exit(main())
