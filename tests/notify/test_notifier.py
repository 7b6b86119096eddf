"""What waits in the outbox is sent beside everything else, at growing pauses, and nothing waits for it."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from distribute_ssh.model.job import State
from distribute_ssh.model.settings import Places
from distribute_ssh.notices import notify
from distribute_ssh.notices.notify import LONGEST_PAUSE, Notifier, in_background, next_try
from distribute_ssh.store.queue import Queue
from tests.endtoend.site import Site
from tests.store.makes import brought, submitted
from tests.support.homeserver import Homeserver

# Apprise imports what Python will drop, and does without it then.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

ANN = "@ann:lab.test"


@pytest.fixture
def homeserver() -> Iterator[Homeserver]:
    made = Homeserver()
    yield made
    made.close()


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[Queue]:
    made = Queue.open(tmp_path / "state" / "queue.db")
    yield made
    made.close()


async def test_admins_are_warned_once_a_day_when_storage_runs_low(
    queue: Queue, tmp_path: Path, homeserver: Homeserver
) -> None:
    config(tmp_path, homeserver, admins=[ANN], storage_below="2G")
    sending = notifier(queue, tmp_path)
    left = 3 << 30

    async def free() -> int:
        return left

    await sending.watch_storage("/srv/archive", free)
    assert queue.messages(10) == []
    left = 1 << 30
    await sending.watch_storage("/srv/archive", free)
    await sending.watch_storage("/srv/archive", free)
    (message,) = queue.messages(10)
    assert message.recipient == ANN
    await sending.send_due()
    assert [each.state for each in queue.messages(10)] == ["sent"]
    assert any("storage runs low: 1 GiB left in /srv/archive" in each["body"] for _, each in homeserver.sent)


def config(folder: Path, homeserver: Homeserver, **more: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    matrix = {"homeserver": homeserver.url, "account": "@bot:lab.test", "token_file": "token"}
    (folder / "config.yaml").write_text(json.dumps({"notify": {"matrix": matrix, **more}}))
    (folder / "config.yaml").chmod(0o600)
    (folder / "token").touch(mode=0o600)
    (folder / "token").write_text("syt_secret")


def notifier(queue: Queue, tmp_path: Path) -> Notifier:
    async def in_thread(function: Callable[..., Any], *args: Any) -> Any:
        return function(*args)

    places = Places.of({"DISTRIBUTE_CONFIG": str(tmp_path / "config.yaml")}, tmp_path)
    return Notifier(queue, places, in_thread, {})


def ended(queue: Queue, name: str = "study", **fields: Any) -> None:
    batch_id = submitted(queue, "a", batch=name, **{"matrix": ANN} | fields).batch_id
    brought(queue, queue.jobs(batch_id)[0].id, State.DONE)
    with queue.transaction() as change:
        assert change.finish_batch_if_ended(batch_id, time.time())


def told(queue: Queue) -> list[tuple[str | None, str, int]]:
    return [(message.recipient, message.state, message.tries) for message in queue.messages(100)]


def test_pauses_grow_up_to_an_hour_and_whoever_wants_longer_gets_it_up_to_that() -> None:
    assert [next_try(tries, None, 0.0) for tries in (1, 2, 3, 8, 1000)] == [30.0, 60.0, 120.0, 3600.0, 3600.0]
    assert next_try(1, 45.5, 100.0) == 145.5
    for odd in (float("inf"), float("nan"), 1e9):
        assert next_try(1, odd, 0.0) == LONGEST_PAUSE
    assert next_try(1, -1e9, 0.0) == 30.0


async def test_everybody_concerned_is_told_once(queue: Queue, tmp_path: Path, homeserver: Homeserver) -> None:
    hook = homeserver.url.replace("http", "json") + "/send/m.room.message/hook"
    config(tmp_path, homeserver, channels={"hook": hook}, users={"ann": [ANN, "hook"]})
    ended(queue)
    sending = notifier(queue, tmp_path)
    for _ in range(3):
        await sending.send_due()
    assert told(queue) == [(ANN, "sent", 1), ("hook", "sent", 1)]
    keys = {key for key, _ in homeserver.sent}
    assert keys == {"hook", queue.messages(2)[0].key}


async def test_a_batch_that_concerns_nobody_leaves_nothing_behind(queue: Queue, tmp_path: Path) -> None:
    ended(queue, matrix=None)
    await notifier(queue, tmp_path).send_due()
    assert told(queue) == []


async def test_a_message_that_is_refused_is_tried_again_as_the_same_one_and_not_before_its_time(
    queue: Queue, tmp_path: Path, homeserver: Homeserver, monkeypatch: pytest.MonkeyPatch
) -> None:
    config(tmp_path, homeserver)
    homeserver.answers = [(429, {}, b'{"retry_after_ms": 50000}'), (500, {}, b"")]
    ended(queue, "one")
    ended(queue, "two")
    sending = notifier(queue, tmp_path)
    start = time.time()
    await sending.send_due()
    await sending.send_due()
    assert homeserver.tries == 1, "the second one would meet the same"
    first, second = queue.messages(2)
    assert (first.tries, second.tries) == (1, 0)
    assert min(first.next_at, second.next_at) >= start + 50
    assert "429" in (second.trouble or "")
    monkeypatch.setattr(notify.time, "time", lambda: start + 100)
    await sending.send_due()
    assert (homeserver.tries, homeserver.sent) == (2, [])
    monkeypatch.setattr(notify.time, "time", lambda: start + 1000)
    await sending.send_due()
    assert told(queue) == [(ANN, "sent", 3), (ANN, "sent", 1)]
    assert [key for key, _ in homeserver.sent] == [first.key, second.key]


async def test_one_channel_that_hangs_keeps_no_other_one_waiting(
    queue: Queue, tmp_path: Path, homeserver: Homeserver
) -> None:
    silent = Homeserver(silent=True)
    try:
        hook = silent.url.replace("http", "json") + "/send/m.room.message/hook"
        config(tmp_path, homeserver, channels={"hook": hook})
        ended(queue, notify=("hook",))
        await notifier(queue, tmp_path).last_words(1.0)
        assert told(queue) == [(ANN, "sent", 1), ("hook", "waiting", 1)]
        assert queue.messages(1)[0].trouble == "no answer came while we waited"
    finally:
        silent.close()


async def test_a_config_file_that_is_wrong_is_trouble_that_goes_away_when_it_is_mended(
    queue: Queue, tmp_path: Path, homeserver: Homeserver, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.yaml").write_text("notify: {channels: {mail: secret}}\n")
    ended(queue)
    sending = notifier(queue, tmp_path)
    await sending.send_due()
    [message] = queue.messages(1)
    assert (message.recipient, message.state, message.tries) == (None, "waiting", 1)
    assert "config.yaml is wrong" in (message.trouble or "")
    assert "secret" not in (message.trouble or "")
    config(tmp_path, homeserver)
    now = time.time()
    monkeypatch.setattr(notify.time, "time", lambda: now + 60)
    await sending.send_due()
    assert told(queue) == [(ANN, "sent", 1)]


async def test_who_leaves_does_not_wait_for_a_thread_that_hangs() -> None:
    gate = threading.Event()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await in_background(gate.wait)  # type: ignore[arg-type]  # what it returns is not asked
    assert any(thread.name == "notify" and thread.daemon for thread in threading.enumerate())
    gate.set()


async def test_what_goes_wrong_in_the_background_is_raised_where_it_is_waited_for() -> None:
    def wrong() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await in_background(wrong)


# --- the coordinator ---


def text(homeserver: Homeserver) -> list[str]:
    """The last message, line by line."""
    return str(homeserver.sent[-1][1]["body"]).splitlines()


def test_a_homeserver_that_hangs_delays_no_job_and_no_end_of_a_runner(site: Site, homeserver: Homeserver) -> None:
    homeserver.silent = True
    site.local()
    config(site.folder / "home" / ".config" / "distribute", homeserver)
    runner = site.start("runner")
    site.do("add", site.batch(["a"], name="one", meta={"matrix": ANN}))
    site.wait(lambda: homeserver.tries, "the message is on its way")
    site.do("add", site.batch(["a"], name="two"))
    site.wait_state("a", "done", batch="two")
    assert runner.interrupt() == 0
    assert site.select("SELECT state, tries FROM outbox WHERE recipient = ?", ANN) == [("waiting", 1)]


def test_one_pass_of_cron_tells_what_it_can_and_leaves_what_hangs_to_a_later_one(
    site: Site, homeserver: Homeserver
) -> None:
    site.local()
    config(site.folder / "home" / ".config" / "distribute", homeserver)
    site.do("add", site.batch(["a"], meta={"matrix": ANN}))
    site.do("kill", "-y", "ns/b")
    passes = [site.do("runner", "--once")]
    assert text(homeserver)[0] == "ns/b was killed by tester: 1 killed"
    homeserver.silent = True
    site.do("retry", "ns/b")
    site.do("kill", "-y", "ns/b")
    passes += [site.do("runner", "--once"), site.do("runner", "--once")]
    assert homeserver.tries == 2, "it is not tried again at once"
    assert site.select("SELECT state, tries, trouble FROM outbox") == [
        ("sent", 1, None),
        ("waiting", 1, "no answer came while we waited"),
    ]
    assert {each.said() + each.answered() for each in passes} == {""}, "cron would mail every word"


def test_a_batch_that_no_node_can_build_tells_why(site: Site, homeserver: Homeserver) -> None:
    site.local()
    config(site.folder / "home" / ".config" / "distribute", homeserver)
    build = "print('there is no compiler')\nsys.exit(2)\n"
    site.do("run", site.batch(["a", "b"], build=build, meta={"matrix": ANN}), code=1)
    assert text(homeserver)[:2] == [
        "ns/b could not be built on any node: 2 failed",
        "the build failed on here: exit 2: there is no compiler",
    ]
    assert len(homeserver.sent) == 1
