"""A call as its own run in LangChain's traces: type `chain`, a child of the calling run, with inputs, outputs and errors.

LangChain does not trace compressors, so without this a reranking step is invisible. Without handlers nothing is
recorded. Nothing here knows what the call does.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from langchain_core.callbacks import AsyncCallbackManager, BaseCallbackManager, CallbackManager, Callbacks
from langchain_core.runnables import RunnableConfig, ensure_config

TAG = "reranker"


class Traceable(Protocol):
    """The result of a traced call."""

    def outputs(self) -> dict[str, Any]:
        """Return the outputs of the run."""


T = TypeVar("T", bound=Traceable)


@dataclass(frozen=True, slots=True)
class RunInfo:
    """What a trace shows of a call at its start.

    Attributes:
        name: The run's name.
        inputs: The run's inputs.
        metadata: The run's metadata, as plain JSON types.
    """

    name: str
    inputs: Mapping[str, Any]
    metadata: Mapping[str, Any]


def run_options(callbacks: Callbacks) -> dict[str, Any]:
    """Return the options of the calling run: its `metadata`, overridden by its `configurable`.

    Inside a chain both are available. A retriever that is called directly passes on only its callbacks, and with
    them the metadata.
    """
    inherited = callbacks.metadata if isinstance(callbacks, BaseCallbackManager) else {}
    ambient = ensure_config()
    return {**inherited, **ambient["metadata"], **ambient["configurable"]}


def traced(call: Callable[[], T], run: RunInfo, callbacks: Callbacks) -> T:
    """Make a call as a child of the calling run; an error is recorded and raised again."""
    manager = CallbackManager.configure(**_handlers(run, callbacks))
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


async def atraced(call: Callable[[], Awaitable[T]], run: RunInfo, callbacks: Callbacks) -> T:
    """Make an asynchronous call as `traced` does."""
    manager = AsyncCallbackManager.configure(**_handlers(run, callbacks))
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


def _handlers(run: RunInfo, callbacks: Callbacks) -> dict[str, Any]:
    """Return what configures the callback manager: the callbacks that were passed, else those of the current run."""
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
