"""A fake engine with scripted faults, and prompts with known log-odds."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Sequence

from qwen_rerank_plugins.core.scheduler.queue import QueuedPrompt
from qwen_rerank_plugins.core.scheduler.scheduler import Scheduler
from qwen_rerank_plugins.core.scheduler.worker import TakeBatch
from qwen_rerank_plugins.core.sequences import Segment
from qwen_rerank_plugins.errors import EngineOutOfMemoryError
from tests.core.forests import num_tokens

SAFETY_S = 30.0
"""No test waits this long unless it fails."""

ROOT_IDS = (1, 2)


def prompt(value: int, length: int = 10, head: int = 0) -> Segment:
    """A prompt whose right log-odds are `value`: a shared root, a head of 4 tokens, a leaf of `length`."""
    return Segment.after(None, ROOT_IDS, (head,) * 4, (value,) * length)


def prompts(values: Sequence[int], length: int = 10, head: int = 0) -> list[Segment]:
    """A prompt for each value."""
    return [prompt(value, length, head) for value in values]


def answer(prompt: Segment) -> float:
    """The right log-odds of a prompt."""
    return float(prompt.ids[0])


class FakeEngine:
    """Returns the right log-odds unless `fault` is set, and records every batch.

    Args:
        name: The device.
        overlaps: Whether a batch is computed by `collect`, and two may be in flight; else by `launch`.
        blocked: Batches wait until `gate` is set.
        oom_above: Tokens above which memory runs out.
        fault: Called with each batch; what it returns, if not None, is the answer, and what it raises is raised.
        hook: Called with each step and the right answers of its batch, before the step: what it raises is raised, and
            what it returns for "is_done" is the answer.
    """

    def __init__(
        self,
        name: str = "fake:0",
        *,
        overlaps: bool = False,
        blocked: bool = False,
        oom_above: int | None = None,
        fault: Callable[[Sequence[Segment]], list[float] | None] | None = None,
        hook: Callable[[str, list[float]], object] | None = None,
    ) -> None:
        self.name = name
        self.overlaps = overlaps
        self.batches: list[list[float]] = []
        self.tokens: list[int] = []
        self.in_flight: weakref.WeakSet[FakeBatch] = weakref.WeakSet()
        self.entered = threading.Semaphore(0)
        self.gate = threading.Event()
        self.oom_above = oom_above
        self.fault = fault
        self.hook = hook or (lambda step, answers: None)
        if not blocked:
            self.gate.set()

    def prepare(self, prompts: Sequence[Segment]) -> FakeBatch:
        batch = FakeBatch(self, prompts)
        self.hook("prepare", batch.answers)
        return batch

    def launch(self, prepared: FakeBatch) -> FakeBatch:
        self.hook("launch", prepared.answers)
        prepared.number = len(self.batches)
        self.batches.append(prepared.answers)
        self.tokens.append(num_tokens(prepared.prompts))
        self.in_flight.add(prepared)
        assert len(self.in_flight) <= 1 + self.overlaps, "too many batches in flight"
        self.entered.release()
        if not self.overlaps:
            prepared.compute()
        return prepared

    def after_fork(self) -> None:
        raise AssertionError("called without a fork")

    def wait_until_busy(self) -> None:
        """Return when one more batch has arrived."""
        assert self.entered.acquire(timeout=SAFETY_S), "no batch arrived"

    @property
    def computed(self) -> list[float]:
        """The answers of all prompts that were seen, in order."""
        return [value for batch in self.batches for value in batch]


class FakeBatch:
    """A batch that was prepared and perhaps launched."""

    def __init__(self, engine: FakeEngine, prompts: Sequence[Segment]) -> None:
        self.engine, self.prompts = engine, prompts
        self.answers = [answer(prompt) for prompt in prompts]
        self.number = -1
        self.results: list[float] = []

    def is_done(self) -> bool:
        return bool(self.engine.hook("is_done", self.answers))

    def collect(self) -> list[float]:
        self.engine.hook("collect", self.answers)
        if self.engine.overlaps:
            assert self is min(self.engine.in_flight, key=lambda batch: batch.number), (
                "collected out of order"
            )
            self.compute()
        return self.results

    def compute(self) -> None:
        """Store the results or an error."""
        engine, tokens = self.engine, self.engine.tokens[self.number]
        assert engine.gate.wait(SAFETY_S), "nobody opened the gate"
        engine.in_flight.remove(self)
        if engine.oom_above is not None and tokens > engine.oom_above:
            raise EngineOutOfMemoryError(f"{tokens} tokens are too many")
        scripted = engine.fault(self.prompts) if engine.fault else None
        self.results = self.answers if scripted is None else scripted


def take_once(*batches: Sequence[QueuedPrompt]) -> TakeBatch:
    """Take each batch once, whether or not the device is idle, and then none."""
    left = iter(batches)
    return lambda *, wait: next(left, ())


def make_scheduler(
    *engines: FakeEngine, batch: int = 100, queue: int = 1_000_000, reject: bool = False
) -> Scheduler:
    """A scheduler with small batches."""
    return Scheduler(
        engines, max_batch_tokens=batch, max_queue_tokens=queue, admission="reject" if reject else "wait"
    )
