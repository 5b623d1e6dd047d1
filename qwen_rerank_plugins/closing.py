"""What has a `close` is a context manager, for `with` and for `async with`."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

__all__ = ["CloseMixin"]


class CloseMixin:
    """To derive from, beside other classes; a derived class defines `close`."""

    def close(self) -> None:
        """Release what is held; a second time does nothing."""
        raise NotImplementedError

    async def aclose(self) -> None:
        """Do what `close` does without blocking the event loop."""
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
