"""The thread in which everything is done: one event loop of our own, which both forms of the API ask.

So a call that blocks works inside a running loop too (as in Jupyter), and whoever drives the queue is not held up by
what a program does between two calls.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")

_lock = threading.Lock()
_loops: dict[int, asyncio.AbstractEventLoop] = {}  # by process: a fork has none of our threads


def _loop() -> asyncio.AbstractEventLoop:
    with _lock:
        if os.getpid() not in _loops:
            _loops.clear()
            made = asyncio.new_event_loop()
            # A daemon: who leaves without waiting leaves, and what runs on the nodes goes on.
            threading.Thread(target=made.run_forever, name="distribute", daemon=True).start()
            _loops[os.getpid()] = made
        return _loops[os.getpid()]


def begin(work: Coroutine[Any, Any, T]) -> Future[T]:
    """Have something done there; cancelling the future cancels it."""
    return asyncio.run_coroutine_threadsafe(work, _loop())


def wait(work: Coroutine[Any, Any, T]) -> T:
    """Have something done, and wait for it. What interrupts the wait ends the work as well."""
    future = begin(work)
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


async def wait_async(work: Coroutine[Any, Any, T]) -> T:
    """The same, for who has a loop of their own."""
    return await asyncio.wrap_future(begin(work))
