"""The outbox is emptied here, beside everything else the coordinator does: nothing waits for a message, ever.

A message is tried at growing pauses, and given up a day after its first try. The config file is read when something is
due, so that what is mended there holds at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from distribute_ssh.errors import FileError, NotifyError, StorageError, StoreError, UsageError
from distribute_ssh.model.notify import Notify
from distribute_ssh.model.settings import Places, read_config
from distribute_ssh.notices.channels import Channels
from distribute_ssh.store import outbox
from distribute_ssh.store.outbox import Message
from distribute_ssh.store.queue import Queue
from distribute_ssh.views import notice

log = logging.getLogger(__name__)

ASK = 1.0  # seconds between looks at the outbox
FIRST_PAUSE = 30.0  # seconds between the first and the second try
LONGEST_PAUSE = 3600.0
LAST_WORDS = 5.0  # seconds for which whoever has nothing else to do waits for messages to be taken
ANSWER = 60.0  # seconds for one message, however slowly the other side speaks

InThread = Callable[..., Awaitable[Any]]
"""Calls a function in the queue's own thread."""


def pause(tries: int) -> float:
    """Seconds until the next try, after so many."""
    return min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(max(tries - 1, 0), 32))


def next_try(tries: int, retry_after: float | None, now: float) -> float:
    """When to try again: not before the other side wants, but sooner than it might dream of."""
    return now + max(pause(tries), min(LONGEST_PAUSE, retry_after or 0.0))


class Notifier:
    """Sends what waits in the outbox of a queue."""

    def __init__(self, queue: Queue, places: Places, in_thread: InThread, env: Mapping[str, str] = os.environ) -> None:
        self._queue = queue
        self._places = places
        self._in_thread = in_thread
        self._env = env
        self._channels: Channels | None = None
        self._busy = asyncio.Lock()

    async def run(self) -> None:
        """Send for ever."""
        while True:
            await self.send_due()
            await asyncio.sleep(ASK)

    async def last_words(self, limit: float = LAST_WORDS) -> None:
        """Send what is due before everybody leaves, but do not wait long for it."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit):
                await self.send_due()

    async def watch_storage(self, place: str, free_of: Callable[[], Awaitable[int]]) -> None:
        """Warn where less is free than the config file wants; storage that is away is somebody else's trouble."""
        channels = self._read()
        if isinstance(channels, NotifyError) or not channels.notify.storage_below:
            return
        wants = channels.notify
        with contextlib.suppress(StorageError):
            if (free := await free_of()) < wants.storage_below:
                await self._change(outbox.warn_of_storage, place, free, wants.storage_below, wants.admins, time.time())

    async def send_due(self) -> None:
        """Send all that is due, to each recipient in order, to all of them at once."""
        try:
            await self._send_due()
        except StoreError as error:  # a full disk passes; if it is worse, the next tick says so
            log.warning("%s", error)

    async def _send_due(self) -> None:
        async with self._busy:
            due: list[Message] = await self._in_thread(self._queue.due_messages, time.time())
            if not due:
                return
            channels = self._read()
            if any(message.recipient is None for message in due) and isinstance(channels, Channels):
                due = await self._in_thread(self._address, due, channels.notify)
            by_recipient: defaultdict[str | None, list[Message]] = defaultdict(list)
            for message in due:
                by_recipient[message.recipient].append(message)
            await asyncio.gather(*(self._send(messages, channels) for messages in by_recipient.values()))

    def _read(self) -> Channels | NotifyError:
        file = self._places.config_file
        try:
            found = read_config(self._places).notify or Notify()
        except FileError:
            # Not its own words: they go into the queue, and a line of that file may hold a password.
            return NotifyError(f"the config file {file} is wrong", hint="`distribute notify --test` says how")
        except UsageError as error:
            return NotifyError(str(error))
        if self._channels is None or self._channels.notify != found:
            self._channels = Channels(found, file, self._env)
        return self._channels

    def _address(self, due: Sequence[Message], notify: Notify) -> list[Message]:
        with self._queue.transaction() as change:
            now = time.time()
            for message in due:
                if message.recipient is None:
                    told = message.notice
                    outbox.address(change, message, notify.recipients(told["submitter"], tuple(told["to"])), now)
        return self._queue.due_messages(now)

    async def _send(self, messages: Sequence[Message], channels: Channels | NotifyError) -> None:
        for message in messages:
            tries = message.tries + 1
            await self._change(outbox.begin, message, now := time.time(), next_try(tries, None, now))
            try:
                await self._try(message, channels)
            except NotifyError as error:
                log.info("%s was not told of %s: %s", message.recipient, message.notice["batch"], error)
                now = time.time()
                await self._change(outbox.failed, message, str(error), now, next_try(tries, error.retry_after, now))
                return  # the others would meet the same
            await self._change(outbox.sent, message.id, time.time())

    async def _try(self, message: Message, channels: Channels | NotifyError) -> None:
        if isinstance(channels, NotifyError):
            raise channels
        recipient = message.recipient
        assert recipient is not None, "those that have none were addressed"
        channel = channels.channel(recipient)
        words = notice.words(message.notice)
        try:
            async with asyncio.timeout(ANSWER):
                await in_background(lambda: channel.send(recipient, words, message.key))
        except TimeoutError:
            raise NotifyError(f"no answer within {ANSWER:g} s") from None

    async def _change(self, verb: Callable[..., None], *args: Any) -> None:
        def work() -> None:
            with self._queue.transaction() as change:
                verb(change, *args)

        await self._in_thread(work)


async def in_background(work: Callable[[], None]) -> None:
    """Do it in a thread that nobody has to wait for: one that hangs does not keep the program from leaving."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def settle(error: Exception | None) -> None:
        if done.cancelled():
            return
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(error)

    def run() -> None:
        error: Exception | None = None
        try:
            work()
        except Exception as caught:  # it is raised where it is waited for
            error = caught
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, error)

    threading.Thread(target=run, name="notify", daemon=True).start()
    await done
