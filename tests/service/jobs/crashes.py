"""A sequence of steps on a jobs folder, interrupted at each change to the disk.

As a program it repeats the sequence, each time in a process that kills itself at the next change.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from qwen_rerank_plugins.service.jobs.records import Job
from qwen_rerank_plugins.service.jobs.store import JOURNAL, REJECTED, Store

UPLOAD, RESULT = b"query,document\na,b\n", b"query,document,rank\na,b,1\n"
IDS = {name: name * 32 for name in "abcd"}
DONE, FAILED, DELETED, INCOMPLETE = "done", "failed", "deleted", "incomplete"

STEPS = [
    ("a", "queued"),
    ("b", "queued"),
    ("c", INCOMPLETE),
    ("a", "running"),
    ("a", DONE),
    ("b", "running"),
    ("b", FAILED),
    ("d", "queued"),
    ("d", "cancelled"),
    ("d", DELETED),
    ("c", DELETED),
    ("a", DELETED),
]
"""Name of a job, and its state after the step."""
_CHANGES = ("fsync", "mkdir", "rename", "unlink", "rmdir")


class Life:
    """Carries out the steps.

    Args:
        folder: The jobs folder.
        on_done: Called with the number of steps that have returned.
    """

    def __init__(self, folder: Path, on_done: Callable[[int], None]) -> None:
        self._folder, self._on_done = folder, on_done
        self._jobs: dict[str, Job] = {}

    def run(self) -> None:
        store = Store(self._folder)
        try:
            store.recover()
            for number, (name, state) in enumerate(STEPS, 1):
                self._step(store, name, state)
                self._on_done(number)
        finally:
            store.close()

    def _step(self, store: Store, name: str, state: str) -> None:
        job = self._jobs.setdefault(name, new_job(id=IDS[name]))
        if state in {"queued", INCOMPLETE}:
            with store.begin(job) as file:
                file.write(UPLOAD)
                if state == "queued":
                    store.commit(job, file)
        elif state == "running":
            job.state, job.started_s = "running", 1.0
            assert store.save(job)
            for suffix in ("", REJECTED, JOURNAL):  # as the batch pipeline does
                store.result_path(job, suffix).write_bytes(RESULT)
        elif state in {DONE, FAILED}:
            job.state, job.finished_s = ("done" if state == DONE else "failed"), 2.0
            assert store.finish(job)
        elif state == "cancelled":
            store.cancel(job.id)
        else:
            store.delete(job.id)


def new_job(owner: str = "", **fields: Any) -> Job:
    return Job(name="a.csv", input_format="csv", output_format="csv", num_bytes=0, owner=owner, **fields)


@contextmanager
def interrupted(at: int, interrupt: Callable[[str], None]) -> Iterator[None]:
    """Call `interrupt` with the name of a change, at one of them: 0 is before the first, 1 after it, and so on."""
    changes = count()

    def hook(change: Callable[..., Any]) -> Callable[..., Any]:
        def hooked(*args: Any, **kwargs: Any) -> Any:
            if next(changes) == at:
                interrupt(change.__name__)
            result = change(*args, **kwargs)
            if next(changes) == at:
                interrupt(change.__name__)
            return result

        return hooked

    places = [(os, name) for name in _CHANGES] + [(Store, "_write")]
    originals = [getattr(place, name) for place, name in places]
    for (place, name), original in zip(places, originals, strict=True):
        setattr(place, name, hook(original))
    try:
        yield
    finally:
        for (place, name), original in zip(places, originals, strict=True):
            setattr(place, name, original)


def die(_: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def live(folder: Path, at: int) -> None:
    """Run until the change that kills, and write the number of finished steps to a file."""
    done = os.open(folder / f"{at}.done", os.O_CREAT | os.O_WRONLY)

    def note(number: int) -> None:
        os.pwrite(done, b"%2d" % number, 0)

    with interrupted(at, die):
        Life(folder / str(at), note).run()


def main(folder: Path) -> None:
    for at in count():
        child = os.fork()
        if child == 0:
            live(folder, at)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            sys.exit(os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
