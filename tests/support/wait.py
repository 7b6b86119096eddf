"""Waiting for a condition, never for a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

PAUSE = 0.01
LIMIT = 20.0


def wait_for(condition: Callable[[], T], what: str, limit: float = LIMIT) -> T:
    """The first true answer of `condition`; fails, saying `what` did not happen, after `limit` seconds."""
    end = time.monotonic() + limit
    while not (answer := condition()):
        assert time.monotonic() < end, f"did not happen within {limit:.0f} s: {what}"
        time.sleep(PAUSE)
    return answer


async def until(condition: Callable[[], T | Awaitable[T]], what: str, limit: float = LIMIT) -> T:
    """The same where an event loop runs; `condition` may be a coroutine function."""
    end = time.monotonic() + limit
    while True:
        answer = condition()
        if isinstance(answer, Awaitable):
            answer = await answer
        if answer:
            return answer
        assert time.monotonic() < end, f"did not happen within {limit:.0f} s: {what}"
        await asyncio.sleep(PAUSE)
