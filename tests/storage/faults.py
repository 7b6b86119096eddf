"""Links and storage that break on purpose, and that count what passes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from distribute_ssh.errors import StorageError, UnreachableError
from distribute_ssh.node.files import File, Files
from distribute_ssh.node.link import Finished, Link, Process
from distribute_ssh.storage.disk import LocalStorage
from distribute_ssh.storage.folder import Failures, Small, Stamp, Writer


class BreakingLink:
    """A link that is cut once `limit` bytes have come over it. `came`: how many did."""

    def __init__(self, link: Link, limit: int | None = None) -> None:
        self.node = link.node
        self.came = 0
        self.commands = 0
        self.limit = limit
        self.on_bytes: Callable[[int], None] = lambda _: None
        self._link = link

    def count(self, data: bytes) -> bytes:
        """Let bytes through, or break."""
        self.came += len(data)
        self.on_bytes(self.came)
        if self.limit is not None and self.came > self.limit:
            raise UnreachableError(f"{self.node}: cut")
        return data

    @property
    def is_open(self) -> bool:
        return self._link.is_open

    async def run(self, script: str, *, stdin: bytes = b"", limit: float = 30.0) -> Finished:
        self.commands += 1
        ended = await self._link.run(script, stdin=stdin, limit=limit)
        self.count(ended.stdout)
        return ended

    @asynccontextmanager
    async def process(self, script: str) -> AsyncIterator[Process]:
        self.commands += 1
        async with self._link.process(script) as process:
            yield _BreakingProcess(process, self)

    @asynccontextmanager
    async def files(self) -> AsyncIterator[Files]:
        self.commands += 1
        async with self._link.files() as files:
            yield _breaking_files(files, self)

    async def close(self) -> None:
        await self._link.close()


class _BreakingProcess:
    noise = b""

    def __init__(self, process: Process, link: BreakingLink) -> None:
        self._process = process
        self._link = link

    async def write(self, data: bytes) -> None:
        await self._process.write(data)

    def write_eof(self) -> None:
        self._process.write_eof()

    async def read(self, size: int) -> bytes:
        return self._link.count(await self._process.read(min(size, 4096)))

    async def readline(self) -> bytes:
        return self._link.count(await self._process.readline())

    async def wait(self, limit: float) -> Finished:
        return await self._process.wait(limit)

    async def close(self) -> None:
        await self._process.close()


def _breaking_files(files: Files, link: BreakingLink) -> Files:
    class Breaking:
        def __getattr__(self, name: str) -> Any:
            return getattr(files, name)

        async def open_read(self, path: bytes) -> File:
            return _BreakingFile(await files.open_read(path), link)

    return Breaking()


class _BreakingFile:
    def __init__(self, file: File, link: BreakingLink) -> None:
        self._file = file
        self._link = link

    async def read(self, offset: int, size: int) -> bytes:
        return self._link.count(await self._file.read(offset, size))

    async def write(self, offset: int, data: bytes) -> None:
        await self._file.write(offset, data)

    async def sync(self) -> None:
        await self._file.sync()

    async def close(self) -> None:
        await self._file.close()


class KilledError(StorageError):
    """What the coordinator would not live to see."""


class DyingStorage(LocalStorage):
    """Storage whose coordinator is killed in the middle of its act number `dies_at`; nothing is done after that."""

    def __init__(self, root: Path, dies_at: int = 10**9) -> None:
        super().__init__(root)
        self.acts = 0
        self.dies_at = dies_at

    def _act(self) -> bool:
        """Count an act; whether this is the one done by half. Raises KilledError where nobody is left."""
        self.acts += 1
        if self.acts > self.dies_at:
            raise KilledError("killed")
        return self.acts == self.dies_at

    async def put(self, files: Sequence[Small]) -> Failures:
        if not self._act():
            return await super().put(files)
        half = len(files) // 2
        torn = [Small(file.path, file.data[: len(file.data) // 2], 0o600) for file in files[half : half + 1]]
        await super().put([*files[:half], *torn])
        raise KilledError("killed")

    async def make_folders(self, paths: Sequence[bytes], mode: int = 0o700) -> Failures:
        if not self._act():
            return await super().make_folders(paths, mode)
        await super().make_folders(paths[: len(paths) // 2], mode)
        raise KilledError("killed")

    async def make_links(self, links: Mapping[bytes, bytes]) -> Failures:
        if not self._act():
            return await super().make_links(links)
        await super().make_links(dict(list(links.items())[: len(links) // 2]))
        raise KilledError("killed")

    async def stamp(self, stamps: Sequence[Stamp]) -> Failures:
        if not self._act():
            return await super().stamp(stamps)
        await super().stamp(stamps[: len(stamps) // 2])
        raise KilledError("killed")

    async def remove(self, paths: Sequence[bytes]) -> Failures:
        if not self._act():
            return await super().remove(paths)
        await super().remove(paths[: len(paths) // 2])
        raise KilledError("killed")

    async def rename(self, pairs: Sequence[tuple[bytes, bytes]]) -> Failures:
        if not self._act():
            return await super().rename(pairs)
        await super().rename(pairs[: len(pairs) // 2])
        raise KilledError("killed")

    async def sync(self, paths: Sequence[bytes]) -> None:
        if self._act():
            raise KilledError("killed")
        await super().sync(paths)

    async def sync_names(self, folders: Sequence[bytes]) -> None:
        if self._act():
            raise KilledError("killed")
        await super().sync_names(folders)

    async def open(self, path: bytes, *, fresh: bool) -> Any:
        if self._act():
            raise KilledError("killed")
        return _DyingWriter(await super().open(path, fresh=fresh), self)


class _DyingWriter:
    def __init__(self, writer: Writer, storage: DyingStorage) -> None:
        self._writer = writer
        self._storage = storage

    async def write(self, offset: int, data: bytes) -> None:
        if not self._storage._act():
            await self._writer.write(offset, data)
            return
        await self._writer.write(offset, data[: len(data) // 2])
        raise KilledError("killed")

    async def close(self) -> None:
        await self._writer.close()
