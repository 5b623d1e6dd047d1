"""A call as a run of its own in LangChain's traces: type `chain`, under the caller's run, with inputs, outputs and errors.

LangChain has no run for compressors, so without this a reranking step is invisible. Where nobody listens nothing is
recorded. Nothing here knows what the call does.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from langchain_core.callbacks import AsyncCallbackManager, BaseCallbackManager, CallbackManager, Callbacks
from langchain_core.runnables import RunnableConfig, ensure_config

TAG = "reranker"


class Traced(Protocol):
    """What a traced call gives."""

    def outputs(self) -> dict[str, Any]:
        """What the run shows as its outputs."""


T = TypeVar("T", bound=Traced)


@dataclass(frozen=True, slots=True)
class Run:
    """A run to be: what a trace shows of a call before it has an outcome.

    Attributes:
        name: Its name.
        inputs: Its inputs.
        metadata: What else is known of it, as plain JSON types.
    """

    name: str
    inputs: Mapping[str, Any]
    metadata: Mapping[str, Any]


def run_options(callbacks: Callbacks) -> dict[str, Any]:
    """Options of the run that calls us: its `configurable`, over its `metadata`.

    Inside of a chain both are to be had. A retriever that is called directly hands down its callbacks alone, and
    with them the metadata.
    """
    handed = callbacks.metadata if isinstance(callbacks, BaseCallbackManager) else {}
    ambient = ensure_config()
    return {**handed, **ambient["metadata"], **ambient["configurable"]}


def traced(call: Callable[[], T], run: Run, callbacks: Callbacks) -> T:
    """Make a call as a run under the caller's; an error is recorded and raised again."""
    manager = CallbackManager.configure(**_listeners(run, callbacks))
    if not manager.handlers:
        return call()
    running = manager.on_chain_start(None, dict(run.inputs), name=run.name)
    try:
        outcome = call()
    except BaseException as error:
        running.on_chain_error(error)
        raise
    running.on_chain_end(outcome.outputs())
    return outcome


async def atraced(call: Callable[[], Awaitable[T]], run: Run, callbacks: Callbacks) -> T:
    """Make an asynchronous call as `traced` does."""
    manager = AsyncCallbackManager.configure(**_listeners(run, callbacks))
    if not manager.handlers:
        return await call()
    running = await manager.on_chain_start(None, dict(run.inputs), name=run.name)
    try:
        outcome = await call()
    except BaseException as error:
        await running.on_chain_error(error)
        raise
    await running.on_chain_end(outcome.outputs())
    return outcome


def _listeners(run: Run, callbacks: Callbacks) -> dict[str, Any]:
    """Who listens: the callbacks that were passed, else those of the run that this thread or task is in."""
    own = {"local_tags": [TAG], "local_metadata": dict(run.metadata)}
    if callbacks is not None:
        return {"inheritable_callbacks": callbacks, **own}
    ambient: RunnableConfig = ensure_config()
    return {
        "inheritable_callbacks": ambient["callbacks"],
        "inheritable_tags": ambient["tags"],
        "inheritable_metadata": ambient["metadata"],
        **own,
    }
