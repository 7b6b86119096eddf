"""Doing the same to many things at once, but not to all of them at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import TypeVar

T = TypeVar("T")


async def each(items: Collection[T], act: Callable[[T], Awaitable[None]], at_once: int) -> None:
    """Do `act` to every item, `at_once` of them together. The first error stops the others and is raised as it is."""
    waiting = iter(items)

    async def work() -> None:
        for item in waiting:
            await act(item)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(at_once, len(items))):
                group.create_task(work())
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from errors
