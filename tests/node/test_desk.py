"""The desk: people at a node pause it themselves, with nothing but a shell, and nobody else does."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from distribute_ssh.node.desk import close_desk, install, open_desk
from distribute_ssh.node.link import Link
from distribute_ssh.node.local import LocalLink
from tests.support import processes
from tests.support.accounts import Account, account
from tests.support.lab import Lab
from tests.support.resident import Resident, job, new_token, resident
from tests.support.wait import until

MOST = 4 * 3600


class Desk:
    """A node whose desk is open; `asked`: where requests go."""

    def __init__(self, here: Resident, program: str) -> None:
        self.here = here
        self.program = program
        self.folder = Path(program).parent
        self.asked = self.folder / "asked"

    async def type(self, *words: str, user: str | None = None) -> tuple[int, str]:
        """What somebody types there: exit code and all that is said."""
        switch = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"] if user else []
        done = await asyncio.to_thread(
            subprocess.run, [*switch, self.program, *words], capture_output=True, text=True, timeout=60, check=False
        )
        return done.returncode, done.stdout + done.stderr

    async def job(self) -> tuple[str, int]:
        """Start one that is busy; its token and process number."""
        token = new_token()
        await self.here.start(token, job("exec sleep 600", token=token))
        await self.here.event("started", token)
        wrapper = int((self.here.home(token) / "pid").read_text().split()[0])
        found = await until(lambda: sleepers(wrapper), "it runs")
        return token, found[0]

    async def watcher(self, other_than: int = 0) -> int:
        """The process number of the watcher, once it is there."""

        def there() -> list[int]:
            files = [path for path in self.here.room.iterdir() if path.name.startswith("watcher-")]
            return [pid for pid in (int(file.read_text().split()[0]) for file in files) if pid != other_than]

        return (await until(there, "a watcher is there"))[0]

    def lying(self) -> list[str]:
        """What lies in `asked`, which is made anew now and then."""
        try:
            return os.listdir(self.asked)
        except FileNotFoundError:
            return ["?"]

    def log(self) -> str:
        """What the watcher noted."""
        try:
            return (self.here.room / "desk.log").read_text()
        except FileNotFoundError:
            return ""


def sleepers(wrapper: int) -> list[int]:
    """The jobs of a wrapper."""
    near = {wrapper, *(each.pid for each in processes.children(wrapper))}
    return [each.pid for each in processes.everything() if each.parent in near and each.command[:1] == ("sleep",)]


def state(pid: int) -> str:
    found = processes.look(pid)
    return found.state if found else "gone"


@asynccontextmanager
async def opened(link: Link, tmp_path: Path) -> AsyncIterator[Desk]:
    """A desk that everybody on this machine can reach, closed again however its test left it."""
    scratch = tmp_path / "scratch of the node's"
    for folder in (*reversed(tmp_path.parents[:3]), tmp_path, scratch):
        folder.mkdir(exist_ok=True)
        if os.stat(folder).st_uid == os.geteuid():
            folder.chmod(0o755)
    async with resident(link, scratch) as here:
        yield Desk(here, await open_desk(here.channel, "lab1", MOST, []))
    async with resident(link, scratch) as here:
        for folder in (here.room / "attempts").iterdir():
            await here.kill(folder.name, grace=0)
        await close_desk(here.channel, link, None)
        for lease in here.room.glob("lease.*"):
            lease.unlink()


@pytest.fixture
async def desk(shell_link: Link, tmp_path: Path) -> AsyncIterator[Desk]:
    """Under each kind of /bin/sh."""
    async with opened(shell_link, tmp_path) as made:
        yield made


@pytest.fixture
async def one(tmp_path: Path) -> AsyncIterator[Desk]:
    """Under this machine's /bin/sh."""
    async with opened(LocalLink("lab1"), tmp_path) as made:
        yield made


@pytest.fixture
def person(shared_lab: Lab) -> Iterator[Account]:
    """Somebody else with an account on the node."""
    with account("/bin/sh", shared_lab.key) as made:
        yield made


async def test_pause_and_resume_reach_every_job_within_a_moment(desk: Desk) -> None:
    _, pid = await desk.job()
    code, said = await desk.type("pause", "15m")
    assert (code, state(pid)) == (0, "T")
    assert "lab1 is paused by" in said
    code, said = await desk.type("resume")
    assert (code, said) == (0, "lab1 is not paused\n")
    assert state(pid) != "T"


async def test_a_pause_from_the_desk_is_a_lease_like_any_other(one: Desk) -> None:
    token, pid = await one.job()
    began = time.monotonic()
    assert (await one.type("pause", "4"))[0] == 0
    assert (await one.here.look(token)).endswith(" p")
    await until(lambda: state(pid) != "T", "it ends by itself")
    assert time.monotonic() - began > 2


async def test_said_again_from_the_desk_it_ends_as_said_last_with_nobody_connected(desk: Desk) -> None:
    _, pid = await desk.job()
    await desk.watcher()
    os.kill(desk.here.channel.hello.pid, signal.SIGKILL)
    assert (await desk.type("pause", "1h"))[0] == 0
    assert (await desk.type("pause", "3"))[0] == 0
    assert state(pid) == "T"
    await until(lambda: state(pid) != "T", "it ends by itself")
    await until(lambda: not list(desk.here.room.glob("lease.*")), "and nothing is left of it")


async def test_it_works_without_anybody_connected(shell_link: Link, desk: Desk) -> None:
    _, pid = await desk.job()
    await desk.watcher()
    os.kill(desk.here.channel.hello.pid, signal.SIGKILL)
    assert (await desk.type("pause"))[0] == 0
    assert state(pid) == "T"
    assert (await desk.type("resume"))[0] == 0
    assert state(pid) != "T"


async def test_status_says_what_runs_whose_and_since_when(one: Desk) -> None:
    assert await one.type("status") == (0, "lab1 is not paused\nnothing runs here for distribute\n")
    token = new_token()
    names = "".join(
        f"    export DISTRIBUTE_{name}={value}\n"
        for name, value in {"NAMESPACE": "aero", "BATCH": "wing", "JOB_NAME": "'re 100'", "USER": "ana"}.items()
    )
    await one.here.start(token, job("exec sleep 600", token=token) + f"unused() {{\n{names}}}\n")
    await one.here.event("started", token)
    _, said = await one.type("status")
    assert "  aero/wing/re 100  of ana, since " in said


async def test_why_says_who_paused_and_who_may(one: Desk) -> None:
    await open_desk(one.here.channel, "lab1", MOST, ["ben", "cleo"])
    assert "for at most 4 h" in (await one.type("why"))[1]
    await one.type("pause", "1h")
    _, said = await one.type("why")
    assert "at its desk" in said
    assert "ben cleo" in said


@pytest.mark.parametrize(
    ("words", "seconds"),
    [
        ((), 3600),
        (("90",), 90),
        (("15m",), 900),
        (("1h30m10s",), 5410),
        (("00:08:09",), 489),
        (("--for", "2h"), 7200),
        (("--duration=08m",), 480),
    ],
)
async def test_times_are_read_as_elsewhere(tmp_path: Path, words: tuple[str, ...], seconds: int) -> None:
    async with resident(LocalLink("here"), tmp_path) as here:
        desk = Desk(here, await open_desk(here.channel, "lab1", MOST, []))
        assert (await desk.type("pause", *words))[0] == 0
        (lease,) = here.room.glob("lease.*")
        ends, _, said = map(int, lease.read_text().split()[:3])
        assert ends - said == seconds
        await close_desk(here.channel, LocalLink("here"), None)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("pause", "5h"), 2, "at most 4 h"),
        (("pause", "x"), 2, "no time"),
        (("pause", "1m30h"), 2, "no time"),
        (("pause", "1:2:3:4"), 2, "no time"),
        (("pause", "0"), 2, "at least a second"),
        (("pause", "9999999"), 2, "too long"),
        (("pause", "1h", "2h"), 2, "one time"),
        (("pause", "--for"), 2, "needs a time"),
        (("resume", "now"), 2, "nothing more"),
        (("run", "jobs.yaml"), 2, "not from here"),
        ((), 2, "usage"),
        (("--help",), 0, "usage"),
    ],
)
async def test_what_makes_no_sense_is_told_and_changes_nothing(
    tmp_path: Path, words: tuple[str, ...], code: int, said: str
) -> None:
    async with resident(LocalLink("here"), tmp_path) as here:
        desk = Desk(here, await open_desk(here.channel, "lab1", MOST, []))
        answered = await desk.type(*words)
        assert answered[0] == code
        assert said in answered[1]
        assert list(here.room.glob("lease.*")) == []
        await close_desk(here.channel, LocalLink("here"), None)


@pytest.mark.root
async def test_who_is_not_logged_in_here_is_not_obeyed_unless_an_owner(desk: Desk, person: Account) -> None:
    _, pid = await desk.job()
    user = str(person.home.stat().st_uid)
    code, said = await desk.type("pause", user=user)
    assert (code, "not logged in" in said, state(pid) == "T") == (1, True, False)
    assert f"not obeyed: pause, asked by user {user}" in desk.log()
    assert (await desk.type("status", user=user))[0] == 0  # to look is everybody's right
    await open_desk(desk.here.channel, "lab1", MOST, ["somebody", person.name])
    code, said = await desk.type("pause", user=user)
    assert (code, state(pid)) == (0, "T")
    assert f"paused by {person.name}" in said


@pytest.mark.root
@pytest.mark.parametrize("kind", ["a link", "a second name", "content", "a pipe", "a socket", "a folder"])
async def test_what_is_no_empty_file_of_an_owner_is_not_obeyed(
    one: Desk, person: Account, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What root made is root's: a stranger who could borrow it would be obeyed."""
    _, pid = await one.job()
    forged = one.asked / f"pause.60.{os.getpid()}forged"
    of_root = one.here.room.parent / "of root"
    of_root.write_bytes(b"")
    if kind == "a link":
        forged.symlink_to(of_root)
    elif kind == "a second name":
        os.link(of_root, forged)
    elif kind == "content":
        with forged.open("wb") as file:
            file.truncate(1 << 30)
    elif kind == "a pipe":
        os.mkfifo(forged)
    elif kind == "a socket":
        monkeypatch.chdir(one.asked)
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(forged.name)
    else:
        (forged / "in it").mkdir(parents=True)
    await until(lambda: not os.path.lexists(forged), "it is taken away")
    assert state(pid) != "T"
    assert (await one.type("pause"))[0] == 0  # and the next one is heard
    assert state(pid) == "T"


@pytest.mark.root
async def test_where_the_folder_was_swept_away_and_is_a_stranger_s_now_nothing_is_touched(
    one: Desk, person: Account, tmp_path: Path
) -> None:
    watcher, user = await one.watcher(), person.home.stat().st_uid
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis").touch()
    aside = one.folder.with_name("theirs")
    aside.mkdir()
    (aside / "asked").symlink_to(precious)
    (aside / "told").mkdir()
    os.chown(aside, user, user)
    one.folder.rename(one.folder.with_name("swept"))
    aside.rename(one.folder)
    await until(lambda: not processes.is_alive(watcher), "the watcher leaves")
    assert (precious / "thesis").exists()


@pytest.mark.root
async def test_a_thousand_requests_of_one_person_are_nobody_else_s_wait(one: Desk) -> None:
    _, pid = await one.job()
    await one.watcher()
    stranger = 65534
    for number in range(1_000):
        file = one.asked / f"status.0.1{number:06}"
        file.touch(mode=0o600)
        os.chown(file, stranger, stranger)
    began = time.monotonic()
    assert (await one.type("pause"))[0] == 0
    assert state(pid) == "T"
    assert time.monotonic() - began < 10


async def test_ten_thousand_requests_of_no_sense_cost_little_and_the_true_one_is_heard(one: Desk) -> None:
    _, pid = await one.job()
    watcher = await one.watcher()
    before = cpu(watcher)
    for number in range(5_000):
        (one.asked / f"rubbish {number}\n-rw-r--r-- 1 0 0 0 Nov 23 01:00 pause.60.forged{number}").touch()
        (one.asked / f"pause.60.forged{number}").symlink_to("/etc/passwd")
    assert (await one.type("pause"))[0] == 0
    assert state(pid) == "T"
    await until(lambda: list(one.asked.iterdir()) == [], "they are taken away")
    assert cpu(watcher) - before < 10


@pytest.mark.root
async def test_folders_of_others_are_put_aside(one: Desk, person: Account) -> None:
    user = person.home.stat().st_uid
    for number in range(50):
        (one.asked / f"folder{number}").mkdir()
        (one.asked / f"folder{number}" / "file").touch()
        os.chown(one.asked / f"folder{number}", user, user)
    await until(lambda: one.lying() == [], "they are out of sight")
    assert one.asked.stat().st_mode & 0o7777 == 0o1777
    assert "put aside" in one.log()
    assert (await one.type("status"))[0] == 0


def cpu(pid: int) -> float:
    """Seconds that a process and those it waited for have had of the processors."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


async def test_the_watcher_costs_next_to_nothing(one: Desk) -> None:
    watcher = await one.watcher()
    before = cpu(watcher)
    await asyncio.sleep(4)  # a promise about time
    assert cpu(watcher) - before < 4 * 0.05  # ten times what is promised


async def test_one_watcher_is_there_and_a_killed_one_is_replaced_at_the_next_look(one: Desk) -> None:
    first = await one.watcher()
    await open_desk(one.here.channel, "lab1", MOST, [])
    assert await one.watcher() == first
    os.kill(first, signal.SIGKILL)
    await until(lambda: not processes.is_alive(first), "it is gone")
    await one.here.look(new_token())
    assert await one.watcher(first) != first
    assert (await one.type("status"))[0] == 0


async def test_without_a_watcher_that_is_said_and_no_request_is_left_lying(one: Desk) -> None:
    os.kill(await one.watcher(), signal.SIGKILL)
    code, said = await one.type("pause")
    assert code == 3
    assert "no answer" in said
    assert list(one.asked.iterdir()) == []


async def test_a_closed_desk_leaves_nothing_and_its_watcher_goes(one: Desk, tmp_path: Path) -> None:
    watcher = await one.watcher()
    target = await install(LocalLink("lab1"), one.program, str(tmp_path / "bin"))
    await close_desk(one.here.channel, LocalLink("lab1"), str(tmp_path / "bin"))
    await until(lambda: not processes.is_alive(watcher), "it leaves")
    assert not one.folder.exists()
    assert not os.path.lexists(target)


async def test_the_program_is_linked_where_people_find_it_and_no_other_is_replaced(one: Desk, tmp_path: Path) -> None:
    from distribute_ssh.errors import NodeError

    link = one.here.channel
    here = LocalLink("here")
    target = await install(here, one.program, str(tmp_path / "some bin"))
    assert target == await install(here, one.program, str(tmp_path / "some bin"))
    assert subprocess.run([target, "status"], capture_output=True, check=True).stdout.startswith(b"lab1 is")
    assert not link.closed.is_set()
    other = tmp_path / "other"
    other.mkdir()
    (other / "distribute").write_text("theirs")
    with pytest.raises(NodeError, match="another program"):
        await install(here, one.program, str(other))
    assert (other / "distribute").read_text() == "theirs"
