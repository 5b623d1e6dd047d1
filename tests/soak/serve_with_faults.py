"""Serves as `tests.service.serve_double` does, with an engine that fails on demand.

Each file in the folder that SOAK_FAULTS names makes one batch fail, and is removed by it. Its name begins with a fault.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from qwen_rerank_plugins.core.engine.engine import Engine
from qwen_rerank_plugins.core.model.decoder import Plan
from qwen_rerank_plugins.core.sequences import Segment
from qwen_rerank_plugins.errors import EngineOutOfMemoryError
from tests.service.serve_double import main

FAULTS: dict[str, Callable[[str], BaseException]] = {
    "death": MemoryError,  # ends the engine's thread
    "failure": RuntimeError,
    "out-of-memory": EngineOutOfMemoryError,
}


def inject_faults(folder: Path) -> None:
    """Make every engine of this process look for faults in a folder before each batch."""
    prepare = Engine.prepare

    def faulty_prepare(engine: Engine, prompts: Sequence[Segment]) -> Plan:
        is_worker = not threading.current_thread().name.startswith(
            "qwen-rerank-load"
        )  # that is the self-check
        for fault in folder.iterdir() if is_worker else ():
            fault.unlink()
            raise FAULTS[fault.name.partition("_")[0]]("injected")
        return prepare(engine, prompts)

    setattr(Engine, "prepare", faulty_prepare)  # noqa: B010 (mypy refuses to assign a method)


if __name__ == "__main__":
    inject_faults(Path(os.environ["SOAK_FAULTS"]))
    sys.exit(main(json.loads(sys.argv[1])))
