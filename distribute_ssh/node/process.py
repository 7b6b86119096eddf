"""The verbs of a node: stage, start, look, kill, drop. Each may be repeated; each says what is, not what was asked."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import shlex
import tarfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from distribute_ssh.errors import NodeError, ScratchError, UnreachableError
from distribute_ssh.model.job import Input, Job
from distribute_ssh.model.layout import blob
from distribute_ssh.model.lease import Lease
from distribute_ssh.model.units import format_size
from distribute_ssh.node import wire
from distribute_ssh.node.channel import Channel, library_version
from distribute_ssh.node.given import Given
from distribute_ssh.node.lease import standing
from distribute_ssh.node.link import Link, Process
from distribute_ssh.plan.reconcile import Sighting

GRACE = 10  # seconds between TERM and KILL
TINY = 4 << 10  # bytes; such inputs go as a line through the channel: a sweep has one for every job
SMALL = 8 << 20  # bytes; larger inputs travel one by one and are resumed after a cut, smaller ones in one tar stream
PIECE = 1 << 20
AT_ONCE = 64  # requests under way at once
RESERVE = 256 << 20  # bytes that stay free on a node's scratch when inputs come in
SLOWEST = 64 << 10  # bytes/s: below this a transfer counts as hanging

Progress = Callable[[int, int], None]
"""Called with the bytes done and the bytes in all."""

Bring = Callable[[str, int, Callable[[], Awaitable[None]], Callable[[int], None]], Awaitable[None]]
"""Brings one input: its sha256, its size in bytes, what sends it from the head, and what is told of bytes that came."""


@dataclass(frozen=True, slots=True)
class Blob:
    """An input that lies on the node."""

    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Listing:
    """Everything of one queue on a node."""

    sightings: Mapping[str, Sighting | None]  # of every attempt that is there
    batches: Sequence[str]  # tokens of the batch folders
    lease: Lease | None  # the one that stands
    strays: frozenset[str]  # of which processes run, but there is no folder
    has_desk: bool  # people there may ask for a pause


class Room:
    """Our folder on one node, through an open link and its resident channel."""

    pushes = True  # it tells by itself when what it started has ended

    def __init__(self, link: Link, channel: Channel, *, queue_id: str, has_tar: bool, has_sha256sum: bool) -> None:
        self.link = link
        self.channel = channel
        self._queue_id = queue_id
        self._has_tar = has_tar
        self._has_sha256sum = has_sha256sum
        self._blobs: dict[str, Blob] | None = None  # None: not listed yet; least recently used first
        self._parts: dict[str, int] = {}  # bytes of inputs that were cut on their way
        self._free: int | None = None  # bytes; None: nobody knows

    # --- stage ---

    @property
    def can_check(self) -> bool:
        """Whether the node can tell if what came is what was meant."""
        return self._has_sha256sum

    def holds(self, sha256: str, size: int) -> bool:
        """Whether an input is known to lie on the node."""
        return self._blobs is not None and sha256 in self._blobs and self._blobs[sha256].size == size

    async def stage(
        self,
        inputs: Iterable[Input],
        path_of: Callable[[str], Path],
        *,
        keep: Collection[str],
        progress: Progress,
        bring: Bring | None = None,
    ) -> None:
        """Bring every input to the node that it lacks, by content; nothing is sent twice, a cut one goes on.

        `keep`: contents that jobs still need; others make room, least recently used first.
        `bring`: knows other ways for the big ones.
        Raises ScratchError when there is no room, UnreachableError when the line is lost.
        """
        wanted = {item.sha256: item.size for item in inputs}
        if self._blobs is None:
            await self._list_blobs()
        assert self._blobs is not None
        for sha256 in wanted.keys() & self._blobs.keys():  # used now: last to go
            self._blobs[sha256] = self._blobs.pop(sha256)
        # One of another size was cut short on its way.
        missing = {s: size for s, size in wanted.items() if s not in self._blobs or self._blobs[s].size != size}
        if not missing:
            return
        if gone := [sha256 for sha256 in missing if not path_of(sha256).is_file()]:
            # A batch that was brought back without its files, and queued again all the same.
            raise ScratchError(
                f"{len(gone)} of its input files are not on the head any more", hint="submit the batch again"
            )
        total = sum(missing.values())
        await self._make_room(missing, {*keep, *wanted})
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            progress(done, total)

        tiny = [sha256 for sha256, size in missing.items() if size <= TINY]
        for start in range(0, len(tiny), AT_ONCE):
            some = tiny[start : start + AT_ONCE]
            await asyncio.gather(*(self._put(sha256, path_of(sha256).read_bytes()) for sha256 in some))
        small = [sha256 for sha256, size in missing.items() if TINY < size <= SMALL and self._has_tar]
        if small:
            await self._send_small(small, path_of, advance)
        for sha256 in missing.keys() - {*tiny, *small}:
            send = functools.partial(self._send_big, sha256, missing[sha256], path_of(sha256), advance)
            await (bring(sha256, missing[sha256], send, advance) if bring else send())
            self._has(sha256, missing.pop(sha256))  # others may want it from here while we go on
        for sha256, size in missing.items():
            self._has(sha256, size)

    def _has(self, sha256: str, size: int) -> None:
        if self._blobs is not None:
            self._blobs[sha256] = Blob(sha256, size)
            self._parts.pop(sha256, None)
            if self._free is not None:
                self._free -= size

    def forget_blobs(self) -> None:
        """Look again what lies on the node: an attempt did not find an input."""
        self._blobs = None

    async def _list_blobs(self) -> None:
        # Oldest first; the names are ours, so `ls` columns are safe to read.
        left_over = f"sh lib-{library_version()}/fetch.sh close"
        ended = await self._script(f"{left_over}; LC_ALL=C TIME_STYLE=locale ls -ltrnA files; df -Pk . | tail -n 1")
        self._blobs, self._parts, self._free = {}, {}, None
        cut = f".part-{self._queue_id}-"
        for line in ended.decode(errors="replace").splitlines():
            words = line.split()
            if len(words) >= 9 and len(words[-1]) == 64 and words[0].startswith("-"):
                self._blobs[words[-1]] = Blob(words[-1], int(words[4]))
            elif len(words) >= 9 and words[-1].startswith(cut) and words[0].startswith("-"):
                self._parts[words[-1].removeprefix(cut)] = int(words[4])
            elif len(words) >= 6 and words[-2].endswith("%"):
                self._free = int(words[-3]) * 1024

    async def _make_room(self, missing: Mapping[str, int], keep: Collection[str]) -> None:
        """Let others make room. Raises ScratchError: what cannot fit, begun all the same, would fill the disk up."""
        assert self._blobs is not None
        for is_first in (True, False):
            need = sum(size - min(size, self._parts.get(sha256, 0)) for sha256, size in missing.items())
            if self._free is None:
                return  # `df` told nothing that we can read
            drop = evict(self._blobs.values(), keep, need + RESERVE - self._free)
            for start in range(0, len(drop), 100):
                await self._script("rm -f " + " ".join(blob(item.sha256) for item in drop[start : start + 100]))
            for item in drop:
                del self._blobs[item.sha256]
            self._free += sum(item.size for item in drop)
            if need <= self._free:
                return
            if is_first:  # jobs have come and gone since it was looked at
                await self._list_blobs()
                continue
            raise ScratchError(
                f"{self.link.node}: no room left in {self.channel.root} for the inputs: "
                f"{format_size(need)} have to come, {format_size(self._free)} are free",
                hint="free some space there",
            )

    async def _put(self, sha256: str, data: bytes) -> None:
        # The end is said: the node's shell strips spaces from the end of a line, and an empty file has no word.
        _, end = await self.channel.request("put", sha256, wire.escape_bytes(data) + "\\c")
        if not end.ok:
            raise ScratchError(f"{self.link.node}: no room left in {self.channel.root}", hint="free some space there")

    async def _send_small(
        self, names: Sequence[str], path_of: Callable[[str], Path], advance: Callable[[int], None]
    ) -> None:
        folder = f"files/.in-{self._queue_id}"
        check = 'sha256sum * | while read -r sum name; do [ "$sum" = "$name" ] || exit 9; done &&'
        script = (
            f"rm -rf {folder}; mkdir {folder} && cd {folder} && tar -xf - && "
            f"{check if self._has_sha256sum else ''} chmod 600 * && mv -f * .. && cd .. && rmdir .in-{self._queue_id}"
        )
        async with self._sending(script, sum(path_of(name).stat().st_size for name in names)) as process:
            for name in names:
                data = path_of(name).read_bytes()
                info = tarfile.TarInfo(name)
                info.size = len(data)
                header = info.tobuf(tarfile.USTAR_FORMAT)
                await process.write(header + data + bytes(-len(data) % tarfile.BLOCKSIZE))
                advance(len(data))
            await process.write(bytes(2 * tarfile.BLOCKSIZE))

    async def _send_big(self, sha256: str, size: int, path: Path, advance: Callable[[int], None]) -> None:
        part = f"files/.part-{self._queue_id}-{sha256}"
        answer = await self._script(f"[ -f {part} ] && wc -c < {part} || echo 0")
        there = int(answer.split()[0])
        if there > size:
            await self._script(f"rm -f {part}")
            there = 0
        # Where the line is cut, `cat` ends as if all had come: what did is not damaged, and the next try goes on there.
        steps = [f"cat >> {part}", f"[ $(wc -c < {part}) = {size} ]"]
        if self._has_sha256sum:
            is_right = f'[ "${{sum%% *}}" = {sha256} ]'
            steps.append(f"sum=$(sha256sum {part}) && {{ {is_right} || {{ rm -f {part}; exit 9; }}; }}")
        script = " && ".join([*steps, f"chmod 600 {part}", f"mv -f {part} {blob(sha256)}"])
        advance(there)
        async with self._sending(script, size) as process:
            with path.open("rb") as source:
                source.seek(there)
                while data := source.read(PIECE):
                    await process.write(data)
                    advance(len(data))

    @contextlib.asynccontextmanager
    async def _sending(self, script: str, size: int) -> AsyncIterator[Process]:
        limit = 60 + size / SLOWEST
        async with self.link.process(f"cd {shlex.quote(self.channel.root)} || exit 7\n{script}") as process:
            lost = None
            try:
                yield process
            except UnreachableError as error:
                lost = error  # the command may have ended by itself; its own words say more
            process.write_eof()
            try:
                ended = await process.wait(limit)
            except UnreachableError as error:
                raise lost or error from None
        if not ended.ok or lost:
            raise self._failed(ended.status, ended.stderr)

    def _failed(self, status: int | None, stderr: bytes) -> NodeError:
        said = stderr.decode(errors="replace").strip().splitlines()
        last = said[-1] if said else f"status {status}"
        node, root = self.link.node, self.channel.root
        if b"No space left" in stderr or b"Disk quota" in stderr:
            return ScratchError(f"{node}: no room left in {root} for the inputs", hint="free some space there")
        if status == 9:
            return ScratchError(f"{node}: an input arrived damaged in {root}; it is sent again")
        return ScratchError(f"{node}: the inputs could not be written into {root}: {last}")

    # --- attempts ---

    async def start(self, token: str, script: str) -> None:
        """Ask for the start of an attempt; asking again never starts it twice."""
        _, end = await self.channel.request("start", token, wire.escape(script))
        if not end.ok:
            raise ScratchError(f"{self.link.node}: no room left in {self.channel.root}", hint="free some space there")

    async def start_all(self, scripts: Mapping[str, str]) -> dict[str, NodeError]:
        """Ask for the start of several, scripts by token; what was wrong with some of them. Raises UnreachableError."""
        failed: dict[str, NodeError] = {}

        async def one(token: str, script: str) -> None:
            try:
                await self.start(token, script)
            except UnreachableError:
                raise
            except NodeError as error:
                failed[token] = error

        async with asyncio.TaskGroup() as group:
            for token, script in scripts.items():
                group.create_task(one(token, script), name=f"start {token} on {self.link.node}")
        return failed

    def part(self, job: Job, part: Given) -> Given:  # noqa: ARG002  # a cluster gives what Slurm gives
        """What a job is given of the node, which was decided already."""
        return part

    def build_cores(self, jobs: Sequence[Job], cores: int) -> int:  # noqa: ARG002  # likewise
        """How many cores a build gets that these jobs wait for, of all there are."""
        return cores

    def dressed(self, script: str, job: Job, part: Given) -> str:  # noqa: ARG002  # likewise
        """The script of a job that gets this part, as the node takes it."""
        return script

    def dressed_build(self, script: str, jobs: Sequence[Job]) -> str:  # noqa: ARG002  # likewise
        """The script of a build that these jobs wait for as the node takes it."""
        return script

    async def look(self, tokens: Sequence[str]) -> tuple[dict[str, Sighting | None], Lease | None]:
        """What the folders of these attempts tell (None: there is no such folder), and the lease that stands."""
        rows, _ = await self.channel.request("look", *tokens)
        found = dict.fromkeys(tokens)
        found.update(_sightings(row.fields for row in rows if row.kind == "sight" and row.fields[0] in found))
        return found, standing(rows, time.time())

    async def list(self) -> Listing:
        """Look at all there is."""
        rows, end = await self.channel.request("list", self._queue_id)
        return Listing(
            sightings=_sightings(row.fields for row in rows if row.kind == "sight"),
            batches=[row.fields[0] for row in rows if row.kind == "batch"],
            lease=standing(rows, time.time()),
            strays=frozenset(row.fields[0] for row in rows if row.kind == "stray"),
            has_desk=end.detail == "desk",
        )

    async def warn(self, token: str, signal: str) -> None:
        """Send a signal to the first process of an attempt's payload, once however often it is asked for."""
        await self.channel.request("warn", token, signal)

    async def kill(self, token: str, grace: int = GRACE) -> int:
        """End an attempt and everything it started; the number of processes that would not go (0 is the proof)."""
        _, end = await self.channel.request("kill", token, str(grace), limit=grace + 60)
        return int(end.detail) if end.detail.isdigit() else 0

    async def reap(self, tokens: Sequence[str]) -> int:
        """End what attempts that ended left running; the number of processes that would not go."""
        _, end = await self.channel.request("reap", *tokens)
        return int(end.detail) if end.detail.isdigit() else 0

    async def drop(self, tokens: Sequence[str]) -> set[str]:
        """Remove attempts' folders; those that would not go are named."""
        rows, _ = await self.channel.request("drop", *tokens, limit=600)
        return {row.fields[0] for row in rows if row.kind == "kept"}

    async def clear(self, batch_tokens: Sequence[str]) -> set[str]:
        """Remove batches' folders; those that would not go are named."""
        rows, _ = await self.channel.request("clear", *batch_tokens, limit=600)
        return {row.fields[0] for row in rows if row.kind == "kept"}

    async def _script(self, script: str) -> bytes:
        ended = await self.link.run(f"cd {shlex.quote(self.channel.root)} || exit 7\n{script}", limit=120)
        if not ended.ok:
            raise self._failed(ended.status, ended.stderr)
        return ended.stdout


def evict(blobs: Iterable[Blob], keep: Collection[str], need: int) -> list[Blob]:
    """Choose what leaves `files/` so that `need` bytes come free: least recently used first, never what is needed."""
    chosen = []
    for item in blobs:
        if need <= 0:
            break
        if item.sha256 not in keep:
            chosen.append(item)
            need -= item.size
    return chosen


def _sightings(rows: Iterable[tuple[str, ...]]) -> dict[str, Sighting | None]:
    found: dict[str, Sighting | None] = {}
    for token, state, *rest in (row for row in rows if len(row) > 1):
        if state == "absent":
            found[token] = None
        elif state == "running" and len(rest) == 2:
            seconds = float(rest[0]) if rest[0].isdecimal() and len(rest[0]) < 10 else 0.0
            found[token] = Sighting(token, "running", paused=rest[1] == "p", paused_seconds=seconds)
        elif state in wire.SIGHTS:
            found[token] = Sighting(token, state, rest[0] if rest else None)  # type: ignore[arg-type]  # one of SIGHTS
    return found
