"""A big input from node to node: the script on both, in every shell, with a stand-in for ssh; and who asks for it."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from distribute_ssh.coordination import spreading
from distribute_ssh.coordination.spreading import Spreading
from distribute_ssh.errors import UnreachableError
from distribute_ssh.model.inventory import NodeEntry
from distribute_ssh.node import fetching
from distribute_ssh.node.connection import SshLink
from distribute_ssh.node.fetching import Content, Door, NotFetchedError, door
from distribute_ssh.node.process import Room
from tests.support.wait import wait_for

SHELLS = [shell for shell in (["dash"], ["bash", "--posix"], ["busybox", "sh"]) if shutil.which(shell[0])]
SCRIPT = Path(spreading.__file__).parents[1] / "node" / "fetch.sh"
DATA = os.urandom(100_000)
SHA = hashlib.sha256(DATA).hexdigest()
EMPTY = "0" * 64
# Says what it was told, and gives what the giver's forced command gives.
SSH = r"""#!/bin/sh
echo "$*" > "$SAID"
for offset; do :; done
echo "a start-up file speaks"
SSH_ORIGINAL_COMMAND=$offset exec sh "$SCRIPT" give "$GIVER/files" "$WANTED" "$SIZE"
"""


@dataclass
class Nodes:
    """A giver and a taker, both on this machine."""

    folder: Path
    shell: list[str]
    env: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("giver/files", "taker/files", "home/.ssh", "bin"):
            (self.folder / name).mkdir(parents=True)
        (self.folder / "bin" / "ssh").write_text(SSH)
        (self.folder / "bin" / "ssh").chmod(0o755)
        self.env = {
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "HOME": str(self.folder / "home"),
            "SAID": str(self.folder / "said"),
            "SCRIPT": str(SCRIPT),
            "GIVER": str(self.folder / "giver"),
            "WANTED": SHA,
            "SIZE": str(len(DATA)),
        }

    @property
    def keys(self) -> Path:
        """Where keys of transfers are."""
        return self.folder / "home" / ".ssh" / "authorized_keys2"

    @property
    def there(self) -> list[str]:
        """What the taker has."""
        return sorted(path.name for path in (self.folder / "taker" / "files").iterdir())

    def begin(self, *words: str, **env: str) -> subprocess.Popen[bytes]:
        """Start the script, in a group of its own, as sshd starts it."""
        pipe = subprocess.PIPE
        return subprocess.Popen(
            [*self.shell, str(SCRIPT), *words],
            env=self.env | env, cwd=self.folder / "taker", stdin=pipe, stdout=pipe, stderr=pipe, process_group=0,
        )  # fmt: skip

    def run(self, *words: str, text: bytes = b"", **env: str) -> subprocess.CompletedProcess[bytes]:
        """Run it to its end."""
        process = self.begin(*words, **env)
        out, err = process.communicate(text, timeout=30)
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def take(self, **env: str) -> subprocess.CompletedProcess[bytes]:
        """Get the input."""
        return self.run("take", *self.taking, text=b"SECRET\nKEY\n#KEY\ngiver ssh-ed25519 AAAA\n", **env)

    @property
    def taking(self) -> list[str]:
        """What `take` is told."""
        return ["queue", SHA, str(len(DATA)), "number", "ana", "10.0.0.1", "2222"]


@pytest.fixture(params=SHELLS, ids=lambda shell: shell[0])
def nodes(request: pytest.FixtureRequest, tmp_path: Path) -> Nodes:
    return Nodes(tmp_path, request.param)


@pytest.fixture
def giving(nodes: Nodes) -> Path:
    """The input on the giver."""
    path = nodes.folder / "giver" / "files" / SHA
    path.write_bytes(DATA)
    return path


# -------------------------------------------------------------------------------------------------------------- to take


@pytest.mark.usefixtures("giving")
def test_what_was_given_is_there_under_its_hash_and_nothing_else_is(nodes: Nodes) -> None:
    done = nodes.take()
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == b"begun"
    assert nodes.there == [SHA]
    assert (nodes.folder / "taker" / "files" / SHA).read_bytes() == DATA
    assert (nodes.folder / "taker" / "files" / SHA).stat().st_mode & 0o777 == 0o600
    told = (nodes.folder / "said").read_text()
    assert "-F /dev/null -T -x -a" in told
    assert "-o StrictHostKeyChecking=yes" in told
    assert told.endswith("-l ana -p 2222 -- 10.0.0.1 0\n")


@pytest.mark.usefixtures("giving")
def test_it_goes_on_where_the_head_or_another_stopped(nodes: Nodes) -> None:
    (nodes.folder / "taker" / "files" / f".part-queue-{SHA}").write_bytes(DATA[:70_000])
    assert nodes.take().returncode == 0
    assert (nodes.folder / "said").read_text().endswith(" 70000\n")
    assert (nodes.folder / "taker" / "files" / SHA).read_bytes() == DATA


def test_what_is_damaged_is_not_kept(nodes: Nodes, giving: Path) -> None:
    giving.write_bytes(bytes(len(DATA)))
    assert (nodes.take().returncode, nodes.there) == (9, [])


def test_of_what_was_cut_short_the_head_has_the_beginning(nodes: Nodes, giving: Path) -> None:
    giving.write_bytes(DATA[:60_000])
    assert nodes.take(SIZE="60000").returncode == 11
    assert nodes.there == [f".part-queue-{SHA}"]
    assert (nodes.folder / "taker" / "files" / f".part-queue-{SHA}").read_bytes() == DATA[:60_000]


def test_a_giver_that_never_ends_does_not_fill_the_disk(nodes: Nodes) -> None:
    (nodes.folder / "bin" / "ssh").write_text('#!/bin/sh\nprintf "\\n$WANTED\\n"\nexec cat /dev/zero\n')
    assert (nodes.take().returncode, nodes.there) == (10, [f".part-queue-{SHA}"])
    assert (nodes.folder / "taker" / "files" / f".part-queue-{SHA}").stat().st_size <= len(DATA) + 512


def test_nor_does_what_it_complains_of(nodes: Nodes) -> None:
    (nodes.folder / "bin" / "ssh").write_text("#!/bin/sh\nhead -c 1000000 /dev/zero | tr '\\0' x >&2\nexit 255\n")
    done = nodes.take()
    assert (done.returncode, done.stdout.count(b"x")) == (10, 4096)


def test_a_beginning_that_is_longer_than_the_whole_is_not_gone_on_from(nodes: Nodes, giving: Path) -> None:
    (nodes.folder / "taker" / "files" / f".part-queue-{SHA}").write_bytes(DATA + b"more")
    assert nodes.take().returncode == 0
    assert (nodes.folder / "taker" / "files" / SHA).read_bytes() == giving.read_bytes()


@pytest.mark.usefixtures("giving")
def test_another_folder_of_that_name_is_not_where_it_goes(nodes: Nodes) -> None:
    (nodes.folder / "projects" / "files").mkdir(parents=True)
    assert nodes.take(CDPATH=str(nodes.folder / "projects")).returncode == 0
    assert nodes.there == [SHA]


def test_who_is_not_let_in_says_why_and_leaves_what_there_was(nodes: Nodes) -> None:
    (nodes.folder / "bin" / "ssh").write_text("#!/bin/sh\necho 'ana@x: Permission denied (publickey).' >&2\nexit 255\n")
    (nodes.folder / "taker" / "files" / f".part-queue-{SHA}").write_bytes(DATA[:9])
    done = nodes.take()
    assert done.returncode == 10
    assert done.stdout.splitlines()[-1] == b"said ana@x: Permission denied (publickey)."
    assert nodes.there == [f".part-queue-{SHA}"]


def test_without_ssh_nothing_is_tried(nodes: Nodes) -> None:
    tools = nodes.folder / "tools"
    tools.mkdir()
    for name in ("cat", "mkdir", "rm", nodes.shell[0]):
        found = shutil.which(name)
        assert found
        (tools / name).symlink_to(found)
    assert (nodes.take(PATH=str(tools)).returncode, nodes.there) == (13, [])


def test_who_is_ended_leaves_what_came_and_no_process(nodes: Nodes, giving: Path) -> None:
    giving.write_bytes(DATA[:50_000])  # the rest does not come
    process = nodes.begin("take", *nodes.taking)
    try:
        assert process.stdin is not None
        process.stdin.write(b"SECRET\n#KEY\ngiver ssh-ed25519 AAAA\n")
        process.stdin.flush()
        part = nodes.folder / "taker" / "files" / ".fetch-number" / SHA
        wait_for(lambda: part.exists() and part.stat().st_size == 50_000, "half of it has come")
        assert not (part.parent / "key").exists(), "the key is gone once it was used"
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
    finally:
        process.kill()
    assert nodes.there == [f".part-queue-{SHA}"]

    def nobody_is_left() -> bool:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return True
        return False

    wait_for(nobody_is_left, "nothing of it runs")


# -------------------------------------------------------------------------------------------------------------- to give


def test_what_is_on_its_way_is_given_as_it_comes_whatever_it_is_called(nodes: Nodes) -> None:
    files = nodes.folder / "giver" / "files"
    part, folder = files / f".part-queue-{SHA}", files / ".fetch-x"
    part.write_bytes(DATA[:10])
    process = nodes.begin("give", str(files), SHA, str(len(DATA)), SSH_ORIGINAL_COMMAND="4")
    try:
        assert process.stdout is not None
        assert process.stdout.read(len(SHA) + 2 + 6) == f"\n{SHA}\n".encode() + DATA[4:10]
        folder.mkdir()
        part.rename(folder / SHA)
        with (folder / SHA).open("ab") as file:
            file.write(DATA[10:5000])
        assert process.stdout.read(4990) == DATA[10:5000]
        with (folder / SHA).open("ab") as file:
            file.write(DATA[5000:])
        (folder / SHA).rename(files / SHA)
        assert process.communicate(timeout=30)[0] == DATA[5000:]
        assert process.returncode == 0
    finally:
        process.kill()


@pytest.mark.usefixtures("giving")
@pytest.mark.parametrize("asked", ["", "0; id", "-1", "$(id)", "../x", "1" * 16, "0\n1"])
def test_whoever_has_the_key_can_ask_for_an_offset_and_nothing_else(nodes: Nodes, asked: str) -> None:
    done = nodes.run("give", str(nodes.folder / "giver" / "files"), SHA, "100000", SSH_ORIGINAL_COMMAND=asked)
    assert (done.returncode, done.stdout) == (3, b"")


def opened(nodes: Nodes, number: str = "n1") -> int:
    return nodes.run("open", number, "ssh-ed25519", "AAAA", "/r/oom", "lib-x", SHA, "7").returncode


def test_a_key_opens_one_input_until_it_is_closed(nodes: Nodes) -> None:
    assert opened(nodes) == 0
    (line,) = nodes.keys.read_text().splitlines()
    assert line.startswith('restrict,expiry-time="2')
    assert f'command="exec /bin/sh /r/oom/lib-x/fetch.sh give /r/oom/files {SHA} 7" ssh-ed25519 AAAA ' in line
    assert nodes.keys.stat().st_mode & 0o777 == 0o600
    assert opened(nodes, "n2") == 0
    assert nodes.run("close", "n1").returncode == 0
    assert nodes.keys.read_text().rstrip().endswith("-n2")
    assert nodes.run("close", "n2").returncode == 0
    assert list(nodes.keys.parent.iterdir()) == []


@pytest.mark.parametrize("theirs", ["ssh-ed25519 AAAA ana@desk\n", "ssh-ed25519 AAAA ana@desk", "# a note\n"])
def test_what_somebody_wrote_there_is_never_touched(nodes: Nodes, theirs: str) -> None:
    nodes.keys.write_text(theirs)
    assert opened(nodes) == 4
    nodes.run("close", "n1")
    assert nodes.keys.read_text() == theirs
    nodes.keys.unlink()
    assert opened(nodes) == 0
    with nodes.keys.open("a") as file:
        file.write(theirs)  # while ours was there
    nodes.run("close", "n1")
    assert nodes.keys.read_text().rstrip("\n") == theirs.rstrip("\n")


def test_a_full_disk_leaves_no_file_of_keys(nodes: Nodes) -> None:
    process = subprocess.run(
        ["prlimit", "--fsize=0", "sh", "-c", 'trap "" XFSZ; exec "$@"', "sh", *nodes.shell,
         str(SCRIPT), "open", "n1", "ssh-ed25519", "AAAA", "/r/oom", "lib-x", SHA, "7"],
        env=nodes.env, capture_output=True, check=False,
    )  # fmt: skip
    assert (process.returncode, list(nodes.keys.parent.iterdir())) == (4, [])


def test_nothing_is_written_through_a_link_nor_where_there_is_no_folder_of_keys(nodes: Nodes) -> None:
    nodes.keys.symlink_to("authorized_keys")
    assert opened(nodes) == 4
    nodes.run("close", "n1")
    assert [path.name for path in nodes.keys.parent.iterdir()] == ["authorized_keys2"]
    nodes.keys.unlink()
    nodes.keys.parent.rmdir()
    assert opened(nodes) == 4


def test_what_a_head_left_that_was_killed_is_removed_when_it_has_expired(nodes: Nodes) -> None:
    assert opened(nodes) == 0
    fresh = nodes.keys.read_text()
    nodes.keys.write_text("restrict ssh-ed25519 AAAA distribute-fetch-1700000000-old\n" + fresh)
    old = nodes.folder / "taker" / "files" / ".fetch-old"
    new = nodes.folder / "taker" / "files" / ".fetch-new"
    for folder in (old, new):
        folder.mkdir()
        (folder / SHA).touch()
    for path in (old / SHA, old):
        os.utime(path, (1_700_000_000, 1_700_000_000))
    assert nodes.run("close").returncode == 0
    assert nodes.keys.read_text() == fresh
    assert nodes.there == [".fetch-new"]


# ----------------------------------------------------------------------------------------------------------- to follow


class Taker:
    """What a taker tells, line by line; a number is a pause in seconds."""

    def __init__(self, *lines: str | float) -> None:
        self.lines = list(lines)

    async def readline(self) -> bytes:
        while self.lines and isinstance(self.lines[0], float):
            await asyncio.sleep(cast(float, self.lines.pop(0)))
        return f"{self.lines.pop(0)}\n".encode() if self.lines else b""


async def followed(*lines: str | float) -> tuple[str, list[object]]:
    told: list[object] = []

    async def begun() -> None:
        told.append("begun")

    taker = cast(Any, Taker(*lines))
    return await fetching._followed(taker, Content(SHA, 100 << 20), begun, told.append), told


async def test_what_a_taker_tells_is_passed_on_and_the_rest_is_not() -> None:
    end = "at 104857600"
    lines = ("noise", "at 0", "begun", "at 10", "at 7", "at x", "at 99999999999999999", end, "said no\x1b[1m")
    assert await followed(*lines) == ("no[1m", ["begun", 10, 100 << 20])


async def test_a_taker_that_is_told_nothing_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "BEGIN_LIMIT", 0.05)
    with pytest.raises(NotFetchedError, match="nothing came"):
        await followed(30.0, "begun")


async def test_a_taker_cannot_keep_us_by_what_it_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "STILL_LIMIT", 0.2)
    with pytest.raises(NotFetchedError, match="nothing came"):
        await followed(*["begun", 0.1] * 100)
    monkeypatch.setattr(fetching, "SLOWEST", 1 << 40)
    assert await followed("begun", "at 999999999", "at 9999999999") == ("", ["begun", 100 << 20])


async def test_what_comes_too_slowly_is_asked_of_the_head(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "SLOW_FOR", 0.2)
    with pytest.raises(NotFetchedError, match="too slowly"):
        await followed("begun", "at 1000", 0.3, "at 2000")
    assert await followed("begun", "at 1000", 0.3, "at 90000000", "at 90001000") == (
        "",
        ["begun", 1000, 90_000_000, 90_001_000],
    )


# --------------------------------------------------------------------------------------------------- who asks for whom


class Link(SshLink):
    """Of which nothing is used."""

    def __init__(self, node: str, *, jumps: tuple[str, ...] = (), peer: str = "10.0.0.1") -> None:
        self.node = node
        self.target = cast(Any, SimpleNamespace(jumps=jumps, proxy_command=None, user="ana"))
        key = SimpleNamespace(export_public_key=lambda _: b"ssh-ed25519 AAAA x\n")
        self.connection = cast(
            Any, SimpleNamespace(get_extra_info=lambda _: (peer, 22), get_server_host_key=lambda: key)
        )


def test_a_node_behind_a_jump_host_or_on_this_machine_or_with_an_odd_folder_has_no_door() -> None:
    assert door(Link("a"), "/var/tmp/distribute-7") == Door("ana", "10.0.0.1", 22, "ssh-ed25519 AAAA x")
    assert door(Link("a", jumps=("gate",)), "/var/tmp/x") is None
    assert door(Link("a", peer="127.0.0.1"), "/var/tmp/x") is None
    assert door(Link("a", peer="::1"), "/var/tmp/x") is None
    assert door(Link("a"), '/var/my tmp/"x') is None


class Lab:
    """Nodes that are connected, and what passes between them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.spreading = Spreading("queue")
        self.has: set[str] = set()
        self.paused: set[str] = set()
        self.fetched: list[tuple[str, str]] = []
        self.error: Exception | None = None
        monkeypatch.setattr(spreading, "fetch", self.fetch)

    async def fetch(
        self, giver: SshLink, root: str, at: Door, taker: SshLink, other: str, content: Content,
        *, queue_id: str, progress: Callable[[int], None],
    ) -> None:  # fmt: skip
        assert (root, other, queue_id) == (f"/{giver.node}", f"/{taker.node}", "queue")
        self.fetched.append((giver.node, taker.node))
        progress(40)
        if self.error is not None:
            raise self.error

    def join(self, name: str, **entry: Any) -> Any:
        room = SimpleNamespace(
            link=Link(name),
            channel=SimpleNamespace(root=f"/{name}"),
            can_check=True,
            holds=lambda *_: name in self.has,
        )
        return self.spreading.joined(NodeEntry(name, **entry), cast(Room, room), lambda: name in self.paused)

    async def bring(self, node: str, size: int = 100 << 20) -> tuple[bool, int]:
        """Whether the head sent it, and how many bytes were told to have come another way."""
        told: list[int] = []
        sent: list[bool] = []

        async def send() -> None:
            sent.append(True)

        await self.spreading.bring(node, SHA, size, send, told.append)
        return bool(sent), sum(told)


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    made = Lab(monkeypatch)
    with made.join("a"), made.join("b"), made.join("never", share_inputs=0):
        yield made


async def test_a_node_gets_it_from_who_has_it(lab: Lab) -> None:
    lab.has = {"a"}
    assert await lab.bring("b") == (False, 100 << 20)
    assert lab.fetched == [("a", "b")]


@pytest.mark.parametrize(
    ("state", "node", "size"),
    [
        ({}, "b", 100 << 20),
        ({"has": {"a"}}, "b", 10 << 20),
        ({"has": {"a"}}, "never", 100 << 20),
        ({"has": {"never"}}, "b", 100 << 20),
        ({"has": {"a"}, "paused": {"a"}}, "b", 100 << 20),
    ],
    ids=["nobody has it", "it is small", "it may not", "who has it may not", "who has it is paused"],
)
async def test_otherwise_the_head_sends_it(lab: Lab, state: Mapping[str, set[str]], node: str, size: int) -> None:
    for name, value in state.items():
        setattr(lab, name, value)
    assert await lab.bring(node, size) == (True, 0)
    assert lab.fetched == []


async def test_what_did_not_come_is_sent_and_not_asked_for_again_for_a_while(lab: Lab) -> None:
    lab.has = {"a"}
    lab.error = NotFetchedError("a wall")
    assert await lab.bring("b") == (True, 0)
    assert await lab.bring("b") == (True, 0)
    assert lab.fetched == [("a", "b")]


async def test_a_line_to_the_taker_that_is_lost_is_trouble_as_ever(lab: Lab) -> None:
    lab.has = {"a"}
    lab.error = UnreachableError("b: the connection was lost")
    with pytest.raises(UnreachableError):
        await lab.bring("b")
    lab.error = None
    assert await lab.bring("b") == (False, 100 << 20), "it is no failure of the pair"


async def test_a_node_that_went_away_is_not_asked(lab: Lab) -> None:
    with lab.join("c"):
        lab.has = {"c"}
    assert await lab.bring("b") == (True, 0)
