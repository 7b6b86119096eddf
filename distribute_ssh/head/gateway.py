"""The head's side of a conversation with a laptop: what a key opens, and nothing else.

A gateway serves one conversation on stdin and stdout, then ends. Who speaks was decided by sshd, which found the key
and started us with `--user`; nothing that comes over the line changes that. There is no shell anywhere: a command is
parsed by its own parser first, and what runs is put together anew from what was understood.
"""

from __future__ import annotations

import contextlib
import os
import select
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from distribute_ssh.errors import DeniedError, DistributeError, HeadError, StoreError
from distribute_ssh.head import frames
from distribute_ssh.head.frames import SILENCE, Decoder, Frame, FrameError
from distribute_ssh.model.actor import Actor

if TYPE_CHECKING:
    from distribute_ssh.model.inventory import Inventory
    from distribute_ssh.model.settings import Places
    from distribute_ssh.store.queue import Queue

HELLO_LIMIT = 20.0  # seconds for the first word: whoever knocks and says nothing is not waited for


class Gone(Exception):  # noqa: N818  # no error: people close their laptops
    """The laptop hung up, or was not heard of for too long."""


class Wire:
    """Frames on a pair of descriptors."""

    def __init__(self, source: int = 0, sink: int = 1) -> None:
        self.source = source
        self.sink = sink
        self._decoder = Decoder()
        self._frames: list[Frame] = []
        # sshd may give us one socket as both: a flag of one is a flag of the other, so both are waited for.
        for each in (source, sink):
            os.set_blocking(each, False)

    def take(self) -> list[Frame]:
        """The frames that are here now, without waiting. Raises Gone at the end."""
        with contextlib.suppress(BlockingIOError):
            try:
                data = os.read(self.source, 1 << 18)
            except ConnectionError:
                raise Gone from None
            if not data:
                raise Gone
            self._frames += self._decoder.feed(data)
        taken = [frame for frame in self._frames if frame.kind != "ping"]
        self._frames = []
        return taken

    def read(self, limit: float = SILENCE) -> Frame:
        """The next frame. Raises Gone at the end, and after `limit` seconds of silence."""
        while True:
            while self._frames:
                frame = self._frames.pop(0)
                if frame.kind != "ping":
                    return frame
            if not select.select([self.source], [], [], limit)[0]:
                raise Gone
            self._frames = self.take()

    def write(self, data: bytes) -> None:
        """Send. Raises Gone where nobody takes it."""
        left = memoryview(data)
        while left:
            try:
                left = left[os.write(self.sink, left) :]
            except BlockingIOError:
                if not select.select([], [self.sink], [], SILENCE)[1]:
                    raise Gone from None
            except (BrokenPipeError, ConnectionError):
                raise Gone from None


@dataclass(frozen=True, slots=True)
class Site:
    """What the gateway works on; each is opened when a conversation needs it."""

    actor: Actor
    places: Places
    queue: Callable[[], Queue]
    inventory: Callable[[], Inventory]
    who: str  # the name for history: of the actor, or of the account
    is_driven: Callable[[], bool]
    run: Callable[[Wire, Frame], None]  # a command, relayed to its end
    place: Callable[[], AbstractContextManager[None]]  # one of the conversations they may have; raises LimitError
    give: Callable[[Wire, Frame], None]  # the results of a batch, until nobody wants more


def serve(wire: Wire, site: Site) -> None:
    """Hold one conversation. Never raises for what the other side did."""
    try:
        wire.write(b"\n" + frames.hello(user=site.who, role=site.actor.role))
        with site.place():
            _converse(wire, site, wire.read(HELLO_LIMIT))
    except Gone:
        pass
    except FrameError as error:
        _last_word(wire, HeadError(f"the head does not understand: {error}", hint="is this another program?"))
    except DistributeError as error:
        _last_word(wire, error)
    except OSError as error:  # a disk that is full, mostly: nothing anybody here can mend
        _last_word(
            wire,
            StoreError(f"the head has trouble: {error.strerror or error}", hint="ask the administrator of the head"),
        )
    except Exception as error:  # a bug: the person is told so in a sentence, sshd gets the traceback
        _last_word(wire, HeadError(f"a bug on the head: {type(error).__name__}: {error}"))
        raise


def _last_word(wire: Wire, error: DistributeError) -> None:
    with contextlib.suppress(Gone):
        wire.write(frames.failure(error))


def _converse(wire: Wire, site: Site, hello: Frame) -> None:
    if hello.kind != "hello":
        raise FrameError("it begins with no hello")
    if hello.number("schema") != frames.SCHEMA:
        return  # our own hello said what we are: the laptop tells its person what to upgrade
    does = hello.text("does", 40)
    if does == "command":
        site.run(wire, wire.read())
    elif does in ("submit", "upload"):
        if why := site.actor.why_not_submit():
            raise DeniedError(why)
        from distribute_ssh.head.reception import Reception  # it reads YAML and more, which a command has no use for

        Reception(wire, site).run()
    elif does == "pull":
        if why := site.actor.why_not_pull():
            raise DeniedError(why)
        site.give(wire, wire.read())
    else:
        raise FrameError(f"it wants to {does[:40]!r}, which is not known here")
