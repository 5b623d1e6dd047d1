"""`CloseMixin`: `with` and `async with` for classes that have a `close`."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

__all__ = ["CloseMixin"]


class CloseMixin:
    """Mixin that makes a class with a `close` a context manager; a derived class defines `close`."""

    def close(self) -> None:
        """Release all resources; a second call does nothing."""
        raise NotImplementedError

    async def aclose(self) -> None:
        """Close without blocking the event loop."""
        await asyncio.to_thread(self.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()
