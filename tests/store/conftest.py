from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from distribute_ssh.store.queue import Queue


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "home" / "queue.db"


@pytest.fixture
def opened(path: Path) -> Iterator[Callable[[], Queue]]:
    """Opens the one queue of a test as often as wanted, and closes all of them at its end."""
    queues: list[Queue] = []

    def opener() -> Queue:
        queues.append(Queue.open(path))
        return queues[-1]

    yield opener
    for queue in queues:
        queue.close()


@pytest.fixture
def queue(opened: Callable[[], Queue]) -> Queue:
    return opened()
