"""A head, as the API uses it: the same conversations that the command line has with one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distribute_ssh.api.side import Changed
from distribute_ssh.errors import HeadError, UnreachableError
from distribute_ssh.head import client, upload
from distribute_ssh.head.fetching import Offered, offered_by
from distribute_ssh.head.frames import FrameError, error_of
from distribute_ssh.head.offer import Offer

if TYPE_CHECKING:
    from distribute_ssh.model.jobsfile import BatchSpec
    from distribute_ssh.model.settings import Head, Places


class Away:
    """A head, and where our own ssh keeps its things."""

    def __init__(self, head: Head, places: Places) -> None:
        self._head = head
        self._places = places

    async def submit(self, spec: BatchSpec, path: Path, *, fresh: bool, replace: bool) -> None:
        """Bring a batch to the head, whole or not at all."""
        offer = Offer(spec, await asyncio.to_thread(upload.identified, spec), fresh, replace)
        await upload.submit(self._head, self._places, path, offer)

    async def status(self, name: str) -> dict[str, Any]:
        """The document of `status --json` for one batch."""
        return await self._asked("status", "--", name)

    async def kill(self, name: str, jobs: Iterable[str]) -> None:
        """Ask for the end of jobs; there the command returns when they have ended."""
        await self._asked("kill", "--yes", "--", name, *jobs)

    def results(self, name: str) -> AbstractAsyncContextManager[Offered]:
        """Open what the head has of a batch."""
        return offered_by(self._head, self._places, name)

    async def follow(self, name: str, changed: Changed) -> None:
        """Return when the batch is over there; the head drives its queue for us meanwhile. Raises NoNodeError."""
        for pause in (*client.COME_BACK, None):
            try:
                # It says a line for each job that came into another state, to whoever looks at no terminal.
                await self._asked("follow", "--", name, said=changed)
                return
            except UnreachableError:
                if pause is None:
                    raise
                await asyncio.sleep(pause)

    @asynccontextmanager
    async def stay(self) -> AsyncIterator[None]:
        """A head does not wait for batches that are not there."""
        yield

    async def _asked(self, command: str, *arguments: str, said: Changed = lambda: None) -> dict[str, Any]:
        """The document with which a command answers there. Raises the error it tells."""
        out, err = bytearray(), bytearray()

        def take(kind: str, data: bytes) -> None:
            (out if kind == "out" else err).extend(data)
            said()

        argv = [command, "--json", *arguments]
        async with client.connected(self._head, self._places) as line:
            await client.command(line, argv, take, asks=False, captured=True, typed=False)
        try:
            told: dict[str, Any] = json.loads(out)
            if "error" not in told:
                return told
            error = error_of(told["error"])
        except (ValueError, TypeError, FrameError):
            what = bytes(err[-400:]).decode(errors="replace").strip()
            raise HeadError(f"{self._head.name} answered with what is no JSON: {what}") from None
        raise error
