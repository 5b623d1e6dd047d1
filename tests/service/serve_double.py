"""Serves with the options in its argument, a JSON object, and prints events as JSON lines. See servers.py."""

from __future__ import annotations

import json
import sys
from typing import Any

from qwen_rerank_plugins import RerankConfig
from qwen_rerank_plugins.errors import WorkerDiedError
from qwen_rerank_plugins.service.lifecycle import Event
from qwen_rerank_plugins.service.server.server import serve
from qwen_rerank_plugins.service.settings import ServiceSettings
from tests.service.doubles import SteeredScorer


def main(options: dict[str, Any]) -> int:
    scorer = None
    if options["scorer"] is not None:
        dies = options["scorer"].pop("dies_after", None)
        scorer = (
            MortalScorer(dies, **options["scorer"])
            if dies is not None
            else SteeredScorer(**options["scorer"])
        )
    settings = ServiceSettings(**options["settings"])
    return serve(RerankConfig(**options["config"]), settings, announce=print_event, scorer=scorer)


class MortalScorer(SteeredScorer):
    """Dies after a number of requests."""

    def __init__(self, lives: int, **options: Any) -> None:
        super().__init__(**options)
        self._lives = lives

    async def ascore(
        self, requests: Any, *, deadline_s: float | None = None, priority: str = "interactive"
    ) -> Any:
        if self.started >= self._lives:
            raise WorkerDiedError("the worker died")
        return await super().ascore(requests, deadline_s=deadline_s)


def print_event(event: Event) -> None:
    print(
        json.dumps({"kind": event.kind, "address": event.address, "error": str(event.error or "")}),
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
