"""A batch from the laptop to the head: what that lacks by content, several files at once, resumed after a cut."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distribute_ssh.errors import HeadError, OvertakenError, UnreachableError, UsageError
from distribute_ssh.head import client as head
from distribute_ssh.head import frames
from distribute_ssh.head.frames import MAX_DATA, Body, Frame, FrameError
from distribute_ssh.head.offer import MAX_LIST, Offer, rows_of
from distribute_ssh.store.spool import measure, pour, references
from distribute_ssh.store.submission import Submitted

if TYPE_CHECKING:
    from distribute_ssh.head.client import Conversation, Line
    from distribute_ssh.model.fileref import FileRef
    from distribute_ssh.model.job import Input
    from distribute_ssh.model.jobsfile import BatchSpec
    from distribute_ssh.model.settings import Head, Places

LANES = 4  # conversations side by side
ONE_LANE = 8 << 20  # bytes up to which a second one costs more time than it saves
TRIES = 8  # in a row in which nothing was moved
LOOK_AGAIN = 3.0  # seconds in which somebody who sends moves something

Progress = Callable[[int, int], object]
"""Called with the bytes that are there and the bytes in all."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """What the head said in the end."""

    submitted: dict[str, Any]  # a Submitted, as JSON has it
    driven: bool  # whether somebody drives the queue there
    sent: int  # bytes that went over the line
    files: int  # how many files they were
    of: int  # how many the batch has, each content once


def identified(spec: BatchSpec, tick: Callable[[int], object] | None = None) -> dict[Path, Input]:
    """Every file of a batch by its content; `tick` is told of bytes read. Raises UsageError for what cannot be sent."""
    refs = {ref.path: ref for ref in references(spec)}
    return {path: measure(ref, tick) for path, ref in refs.items()}


async def submit(
    at: Head,
    places: Places,
    path: Path,
    offer: Offer,
    *,
    progress: Progress | None = None,
    say: Callable[[str], object] = lambda _text: None,
) -> Accepted:
    """Bring a batch to the head, whole or not at all. `say` is told where a line is lost and tried again, and where the
    same file comes from elsewhere already, which is waited for.

    Raises what the head refuses it for; UnreachableError where it cannot be reached any more.
    """
    sending = _Sending(offer, progress)
    pause, tries, moved = 1.0, 0, 0
    while True:
        try:
            async with head.connected(at, places) as line:
                tries = tries if sending.sent == moved else 0
                moved = sending.sent
                return await sending.run(line, path)
        except OvertakenError as error:
            if not sending.overtaken:
                say(f"{error.message}; waiting for it")
            sending.overtaken = True
            await asyncio.sleep(LOOK_AGAIN)
            continue
        except UnreachableError as error:
            tries = tries + 1 if sending.sent == moved else 1
            # Asked to begin anew, the head may have done so already: a second time is another thing.
            if not sending.began or tries > TRIES or (sending.asked and (offer.fresh or offer.replace)):
                raise
            moved = sending.sent
            say(f"{error.message}; trying again in {pause:.0f} s, where it stopped")
        await asyncio.sleep(pause)
        pause = min(2 * pause, 30.0)


class _Sending:
    """One submission, over as many connections as it takes."""

    def __init__(self, offer: Offer, progress: Progress | None) -> None:
        self.offer = offer
        self.began = False  # the head answered once
        self.asked = False  # it was asked to accept
        self.overtaken = False  # another submission went on with a file of ours
        self._left: int | None = None  # bytes the head lacked when it was looked at after that
        self.sent = 0
        self.files: set[str] = set()
        self._progress = progress
        self._there = 0
        self._total = sum(offer.sizes.values())
        self._refs: dict[str, FileRef] = {offer.files[ref.path].sha256: ref for ref in references(offer.spec)}

    async def run(self, line: Line, path: Path) -> Accepted:
        async with line.talk("submit") as talk:
            for piece in self.offer.said(path):
                await talk.say(piece)
            answer = await talk.hear()
            while answer.kind == "lacking":
                self.began = True
                lacking = await self._lacking(talk, answer)
                if self.overtaken and self._others_send(lacking):
                    raise OvertakenError("the same file is still being sent from somewhere else")
                await self._send(line, talk, lacking)
                self.asked = True
                await talk.say(frames.encode("accept"))
                answer = await talk.hear()
        if answer.kind != "accepted":
            raise head.odd(line.head, answer)
        return Accepted(_submitted(answer), answer.flag("driven"), self.sent, len(self.files), len(self._refs))

    async def _lacking(self, talk: Conversation, first: Frame) -> dict[str, int]:
        """Where to go on with each content the head lacks."""
        body = Body("lacking", MAX_LIST)
        frame = first
        try:
            while (whole := body.add(frame)) is None:
                frame = await talk.hear()
            found = {str(sha256): int(at) for sha256, at in rows_of(whole)}
            if any(not 0 <= at <= self.offer.sizes[sha256] for sha256, at in found.items()):
                raise ValueError("more of a file than there is")
        except (FrameError, ValueError, TypeError, KeyError, RecursionError) as error:
            raise _nonsense(error) from None
        return found

    def _others_send(self, lacking: Mapping[str, int]) -> bool:
        """Whether less is lacking than at the last look. Where it is not, they are gone, and it is ours to go on."""
        left = sum(self.offer.sizes[sha256] - at for sha256, at in lacking.items())
        others = left > 0 and (self._left is None or left < self._left)
        self.overtaken, self._left = others, left if others else None
        return others

    async def _send(self, line: Line, talk: Conversation, lacking: Mapping[str, int]) -> None:
        sizes = self.offer.sizes
        left = sum(sizes[sha256] - at for sha256, at in lacking.items())
        self._there = self._total - left
        self._move(0)
        todo = deque(sorted(lacking.items(), key=lambda item: -sizes[item[0]]))
        lanes = min(LANES, len(todo)) if left > ONE_LANE else 1
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._lane(talk, todo), name="files for the head")
                for number in range(1, lanes):
                    group.create_task(self._side_lane(line, todo), name=f"files for the head {number}")
        except ExceptionGroup as troubles:  # where one was refused, the others merely find the line gone
            raise min(troubles.exceptions, key=lambda each: isinstance(each, UnreachableError)) from None

    async def _side_lane(self, line: Line, todo: deque[tuple[str, int]]) -> None:
        async with line.talk("upload") as talk:
            await self._lane(talk, todo)

    async def _lane(self, talk: Conversation, todo: deque[tuple[str, int]]) -> None:
        # The head says nothing until all is stored, or at once why it takes no more: then it hangs up as well.
        hearing = asyncio.create_task(talk.hear(), name="whether the head has stored it")
        try:
            with contextlib.suppress(UnreachableError):  # what is heard tells why
                while todo and not hearing.done():
                    await self._put(talk, *todo.popleft())
                await talk.say(frames.encode("sync"))
            await hearing
        finally:
            hearing.cancel()
            await asyncio.gather(hearing, return_exceptions=True)

    async def _put(self, talk: Conversation, sha256: str, at: int) -> None:
        size, ref = self.offer.sizes[sha256], self._refs[sha256]
        self.files.add(sha256)
        loop = asyncio.get_running_loop()
        sink = _Cut(at, size, lambda frame: asyncio.run_coroutine_threadsafe(say(frame), loop).result(), sha256)

        async def say(frame: bytes) -> None:
            await talk.say(frame)
            self._move(len(frame))

        if size <= MAX_DATA:  # a thread for each would cost more than it reads
            pieces: list[bytes] = []
            sink.push = pieces.append
            pour(ref, sink)
            sink.end()
            for piece in pieces:
                await say(piece)
        else:
            await asyncio.to_thread(pour, ref, sink)
            await asyncio.to_thread(sink.end)

    def _move(self, count: int) -> None:
        self.sent += count
        self._there = min(self._there + count, self._total)
        if self._progress:
            self._progress(self._there, self._total)


class _Cut:
    """Content on its way: what the head has already is left out, the rest goes in frames."""

    def __init__(self, skip: int, size: int, push: Callable[[bytes], object], sha256: str) -> None:
        self.push = push
        self._skip = skip
        self._size = size
        self._sha256 = sha256
        self._seen = 0
        self._offset = skip
        self._held = bytearray()
        self._begun = False

    def write(self, data: bytes) -> None:
        """Take the next bytes of the content."""
        begin = max(self._skip - self._seen, 0)
        self._seen += len(data)
        if self._seen > self._size:
            raise self._changed()
        self._held += data[begin:]
        while len(self._held) >= MAX_DATA:
            self._say(MAX_DATA)

    def end(self) -> None:
        """Send what is left. Raises UsageError where it is not as long as it was."""
        if self._seen != self._size:
            raise self._changed()
        if self._held or not self._begun:
            self._say(len(self._held))

    def _say(self, count: int) -> None:
        data = bytes(self._held[:count])
        del self._held[:count]
        if self._begun:
            self.push(frames.encode("more", data))
        else:
            self._begun = True
            self.push(frames.encode("put", data, sha256=self._sha256, size=self._size, offset=self._offset))

    def _changed(self) -> UsageError:
        return UsageError("a file changed while it was sent", hint="submit again when nothing writes to it")


def _submitted(answer: Frame) -> dict[str, Any]:
    """What became of the batch. Raises HeadError for what does not tell."""
    told = answer.fields.get("submitted")
    known = {each.name for each in fields(Submitted)}  # another version may say more, or less
    try:
        found = asdict(Submitted(**{key: value for key, value in dict(told or {}).items() if key in known}))
    except (TypeError, ValueError):
        raise _nonsense("it accepts, and does not say what") from None
    if any(type(value) is not (str if key == "name" else int) for key, value in found.items() if key != "moved_to"):
        raise _nonsense("it accepts, and does not say what")
    return found


def _nonsense(what: object) -> HeadError:
    return HeadError(f"the head answers with what is none of ours: {what}")
