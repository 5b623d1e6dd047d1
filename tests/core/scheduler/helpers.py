"""A fake engine with scripted faults, and prompts whose right log-odds are known."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from qwen_rerank_plugins.core.scheduler.scheduler import Scheduler
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
        blocked: Batches wait until `gate` is set.
        oom_above: Tokens above which memory runs out.
        fault: Called with each batch; what it returns, if not None, is the answer, and what it raises is raised.
    """

    def __init__(
        self,
        name: str = "fake:0",
        *,
        blocked: bool = False,
        oom_above: int | None = None,
        fault: Callable[[Sequence[Segment]], list[float] | None] | None = None,
    ) -> None:
        self.name = name
        self.batches: list[list[float]] = []
        self.tokens: list[int] = []
        self.entered = threading.Semaphore(0)
        self.gate = threading.Event()
        self.oom_above = oom_above
        self.fault = fault
        if not blocked:
            self.gate.set()

    def log_odds(self, prompts: Sequence[Segment]) -> list[float]:
        self.batches.append([answer(prompt) for prompt in prompts])
        self.tokens.append(num_tokens(prompts))
        self.entered.release()
        assert self.gate.wait(SAFETY_S), "nobody opened the gate"
        if self.oom_above is not None and self.tokens[-1] > self.oom_above:
            raise EngineOutOfMemoryError(f"{self.tokens[-1]} tokens are too many")
        scripted = self.fault(prompts) if self.fault else None
        return [answer(prompt) for prompt in prompts] if scripted is None else scripted

    def after_fork(self) -> None:
        raise AssertionError("called without a fork")

    def wait_until_busy(self) -> None:
        """Return when one more batch has arrived."""
        assert self.entered.acquire(timeout=SAFETY_S), "no batch arrived"

    @property
    def computed(self) -> list[float]:
        """The answers of all prompts that were seen, in order."""
        return [value for batch in self.batches for value in batch]


def make_scheduler(
    *engines: FakeEngine, batch: int = 100, queue: int = 1_000_000, reject: bool = False
) -> Scheduler:
    """A scheduler with small batches."""
    return Scheduler(
        engines, max_batch_tokens=batch, max_queue_tokens=queue, admission="reject" if reject else "wait"
    )
