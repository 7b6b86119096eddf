"""A source that lies: whatever it says, nothing outside the target is read or written."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from distribute_ssh.errors import DistributeError, NodeError, NoMatchError, StorageError, UsageError
from distribute_ssh.node.files import Entry
from distribute_ssh.storage.disk import LocalStorage
from distribute_ssh.storage.folder import open_storage
from distribute_ssh.storage.listing import Item
from distribute_ssh.storage.pull import pull, stays_inside
from distribute_ssh.storage.remote import SftpStorage
from distribute_ssh.storage.results import Piece, StoredResults, Take, Want
from distribute_ssh.storage.selection import Selection
from distribute_ssh.storage.target import BESIDE
from distribute_ssh.storage.wire import SentResults, WireError, read_request, read_row, request, row
from tests.storage.batches import job
from tests.storage.places import connecting, tree

FILE = Item("f", 4, 10**18, 0o644)
FOLDER = Item("d", 0, 10**18, 0o755)


def link(target: bytes) -> Item:
    return Item("l", target=target)


class Rogue:
    """Says what it is told to, and sends `evil` for every byte of every file."""

    name = "rogue"

    def __init__(self, *listing: tuple[bytes, Item], pieces: Sequence[Piece] | None = None) -> None:
        self._listing = listing
        self._pieces = pieces

    async def listing(self) -> Sequence[tuple[bytes, Item]]:
        return self._listing

    async def fetch(self, wanted: Sequence[Want], take: Take) -> None:
        if self._pieces is not None:
            await take(self._pieces)
        else:
            await take([Piece(number, b"evil"[: want.size]) for number, want in enumerate(wanted)])


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """What must stay as it is, three folders above the target."""
    (tmp_path / ".bashrc").write_text("mine")
    (tmp_path / "secret").mkdir()
    return tmp_path


def target(home: Path) -> Path:
    return home / "down" / "here" / "batch"


def untouched(home: Path) -> bool:
    there = {path for path in tree(home) if not path.startswith(b"down")}
    return there == {b".bashrc", b"secret"} and (home / ".bashrc").read_text() == "mine"


LIES = {
    "up": [(b"../../../.bashrc", FILE)],
    "up from a folder": [(b"a", FOLDER), (b"a/../../../../.bashrc", FILE)],
    "up itself": [(b"..", FOLDER), (b"../x", FILE)],
    "the folder itself": [(b".", FOLDER), (b"./x", FILE)],
    "absolute": [(b"/etc/passwd", FILE)],
    "empty name": [(b"", FILE)],
    "two slashes": [(b"a", FOLDER), (b"a//b", FILE)],
    "a NUL": [(b"a\0b", FILE)],
    "below a link": [(b"a", link(b"b")), (b"a/x", FILE)],
    "below a file": [(b"a", FILE), (b"a/x", FILE)],
    "below nothing": [(b"a/x", FILE)],
    "a folder that becomes a link": [(b"a", FOLDER), (b"a", link(b"/")), (b"a/x", FILE)],
    "the same twice": [(b"a", FILE), (b"a", FILE)],
    "less than nothing": [(b"a", Item("f", -1, 0, 0o644))],
    "a name of 5,000 bytes": [(b"n" * 5000, FILE)],
    "folders without end": [(b"/".join([b"d"] * n), FOLDER) for n in range(1, 400)],
}


@pytest.mark.parametrize("lie", LIES)
async def test_a_listing_that_lies_is_refused_as_a_whole(home: Path, lie: str) -> None:
    with pytest.raises(NodeError, match="rogue"):
        await pull(Rogue((b"good", FILE), *LIES[lie]), target(home), Selection())
    assert untouched(home)
    assert not (target(home) / "good").exists()


async def test_devices_pipes_and_links_that_lead_out_are_named_and_left(home: Path) -> None:
    out = {b"up": b"../../.bashrc", b"abs": b"/etc/passwd", b"via": b"in/../../../.bashrc", b"nothing": b""}
    odd = [(b"dev", Item("c")), (b"pipe", Item("p")), (b"sock", Item("s")), (b"odd", Item("?"))]
    rogue = Rogue(
        (b"a", FOLDER), (b"a/f", FILE), (b"a/in", link(b"f")), (b"a/back", link(b"../a/f")), *odd,
        *((b"a/" + path, link(to)) for path, to in out.items()),
    )  # fmt: skip
    pulled = await pull(rogue, target(home), Selection())
    assert sorted(os.listdir(target(home))) == ["a"]
    assert sorted(os.listdir(target(home) / "a")) == ["back", "f", "in"]
    refused = {row.path: row.why for row in pulled.rows if row.fate == "refused"}
    assert refused.keys() == {b"a/" + path for path in out} | {path for path, _ in odd}
    assert "may lead out of the batch: ../../.bashrc" in refused[b"a/up"]
    assert refused[b"dev"] == "a device"
    assert untouched(home)


async def test_a_link_of_one_pull_is_no_way_out_for_the_next(home: Path) -> None:
    await pull(Rogue((b"a", FOLDER), (b"a/x", link(b"../b")), (b"b", FOLDER)), target(home), Selection())
    (target(home) / "b").rmdir()
    (target(home) / "b").symlink_to(home / "secret")  # by whoever owns the target
    pulled = await pull(
        Rogue((b"a", FOLDER), (b"a/x", FOLDER), (b"a/x/y", FILE), (b"b", FOLDER), (b"b/z", FILE)),
        target(home),
        Selection(),
    )
    assert pulled.problems.keys() == {b"a/x", b"a/x/y", b"b", b"b/z"}
    assert untouched(home)


@pytest.mark.parametrize(
    ("path", "to", "inside"),
    [
        (b"l", b"x/y", True),
        (b"a/b/l", b"../../c", True),
        (b"a/b/l", b"../../../c", False),
        (b"l", b"..", False),
        (b"a/l", b"..", True),
        (b"l", b"a/..", False),
        (b"l", b"/", False),
        (b"l", b"", False),
        (b"a/l", b"./../x", False),
        (b"a/l", b"..x/..y", True),
    ],
)
def test_a_link_stays_inside_only_where_no_other_link_can_change_that(path: bytes, to: bytes, inside: bool) -> None:
    assert stays_inside(path, to) is inside


@pytest.mark.parametrize(
    "pieces",
    [
        [Piece(7, b"evil")],
        [Piece(-1, b"evil")],
        [Piece(0, b"evil and more")],
        [Piece(1, b"evil"), Piece(0, b"evil")],
        [Piece(0, b"evil"), Piece(0, b"evil")],
    ],
)
async def test_a_stream_with_what_was_not_asked_for_is_refused(home: Path, pieces: list[Piece]) -> None:
    with pytest.raises(StorageError, match="rogue: sends"):
        await pull(Rogue((b"a", FILE), (b"b", FILE), pieces=pieces), target(home), Selection())
    assert untouched(home)


async def test_a_source_that_sends_nothing_is_not_waited_for_for_ever(home: Path) -> None:
    pulled = await pull(Rogue((b"a", FILE), pieces=[]), target(home), Selection())
    assert pulled.problems == {b"a": "went away or changed while it was read"}


async def test_a_size_nobody_has_room_for_is_refused(home: Path) -> None:
    with pytest.raises(DistributeError, match="there is no room"):
        await pull(Rogue((b"a", Item("f", 2**60, 0, 0o644))), target(home), Selection())


async def test_bits_that_lend_rights_do_not_come(home: Path) -> None:
    await pull(Rogue((b"a", Item("f", 4, 10**18, 0o6777))), target(home), Selection())
    assert (target(home) / "a").stat().st_mode & 0o7777 == 0o755


async def test_our_own_folder_beside_is_no_name_a_source_can_use(home: Path) -> None:
    await pull(Rogue((BESIDE, link(b"../../../secret")), (b"a", FILE)), target(home), Selection())
    assert os.listdir(target(home)) == ["a"]
    assert untouched(home)


# --- over the wire ---


def sent(answer: bytes) -> SentResults:
    left = [answer]

    async def read(size: int) -> bytes:
        piece, left[0] = left[0][:size], left[0][size:]
        return piece

    async def write(_: bytes) -> None:
        pass

    return SentResults("head", read, write)


@pytest.mark.parametrize(
    "answer",
    [
        b"rubbish\n",
        b"[]\n",
        b'["f","a",1,2]\n',
        b'["f","a",true,2,3]\n',
        b'["f","a",1.5,2,3]\n',
        b'["f","\\ud800",1,2,3]\n',
        b"[" * 50_000 + b"\n",
        b'["f","' + b"a" * 100_000,
        b'["f","a",' + b"9" * 5000 + b",2,3]\n",
        b'{"error":7}\n',
        b"\xff\n",
    ],
)
async def test_a_listing_that_is_none_is_refused(answer: bytes) -> None:
    with pytest.raises(StorageError, match="makes no sense"):
        await sent(answer).listing()


@pytest.mark.parametrize(
    "answer",
    [b"rubbish\n", b"0\n", b"1 4\nevil\n", b"-1 4\nevil", b"0 -4\n", b"0 99999999\n", b"0 0\n", b"999999999999 1\nx"],
)
async def test_frames_that_are_none_are_refused(answer: bytes) -> None:
    async def take(pieces: Sequence[Piece]) -> None:
        pass

    with pytest.raises(StorageError, match="makes no sense"):
        await sent(answer).fetch([Want(b"a", 4)], take)


async def test_a_line_that_is_lost_is_said_to_be(home: Path) -> None:
    with pytest.raises(StorageError, match="connection was lost"):
        await sent(row(b"a", FILE)).listing()


async def test_an_error_of_the_other_side_is_told_without_its_tricks() -> None:
    told = {"error": {"kind": "no-match", "message": "none \x1b[31mhere", "hint": None}}
    with pytest.raises(NoMatchError, match=r"none \?\[31mhere"):
        await sent(json.dumps(told).encode() + b"\n").listing()


@pytest.mark.parametrize("name", [b"plain", "größe".encode(), b"odd \xff\n\x00'\"", b"a" * 4000])
def test_every_name_survives_the_wire(name: bytes) -> None:
    for item in (FILE, FOLDER, link(name)):
        assert read_row(row(name, item)) == (name, item)
    assert read_request(request([Want(name, 5, 2)])) == [Want(name, 5, 2)]
    assert read_request(request(None)) is None


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"null",
        b'{"fetch":[["a",1,2]]}',
        b'{"fetch":[["a",1]]}',
        b'{"fetch":7}',
        b'{"drop":1}',
        b"[" * 100_000,
        b'{"fetch":[[1,1,0]]}',
    ],
)
def test_a_request_that_is_none_is_refused(line: bytes) -> None:
    with pytest.raises(WireError):
        read_request(line)


# --- the other way round: somebody who asks for more than there is ---

ASKED = [b"../other/a/secret", b"a/etc/passwd", b"/etc/passwd", b"a/link", b"a", b".part-x/half", b"a/../a/f", b""]


@pytest.mark.parametrize("path", ASKED)
@pytest.mark.parametrize("kind", ["folder", pytest.param("sftp", marks=pytest.mark.sshd)])
async def test_only_what_is_a_file_of_the_batch_is_given_away(
    tmp_path: Path, path: bytes, kind: str, request: pytest.FixtureRequest
) -> None:
    job(tmp_path, "a", {b"f": b"fine"}, {b"etc": b"/etc", b"link": b"/etc/passwd"})
    (tmp_path / "ns/batch/.part-x").mkdir()
    (tmp_path / "ns/batch/.part-x/half").write_text("half")
    (tmp_path / "ns/other/a").mkdir(parents=True)
    (tmp_path / "ns/other/a/secret").write_text("secret")
    came: list[Piece] = []

    async def take(pieces: Sequence[Piece]) -> None:
        came.extend(pieces)

    async with AsyncExitStack() as stack:
        place, connect = str(tmp_path), None
        if kind == "sftp":
            connect = await stack.enter_async_context(connecting(request.getfixturevalue("shared_lab")))
            place = f"sftp://lab1{tmp_path}"
        results = StoredResults(await stack.enter_async_context(open_storage(place, connect)), "ns", "batch")
        with pytest.raises(StorageError, match="no file there"):
            await results.fetch([Want(b"a/f", 4), Want(path, 100)], take)
        assert came == []
        await results.fetch([Want(b"a/f", 4)], take)
        assert b"".join(bytes(piece.data) for piece in came) == b"fine"


@pytest.mark.parametrize("name", ["..", "a/b", "", "-x", "a\n", ".part"])
def test_no_other_folder_can_be_named_as_a_batch(tmp_path: Path, name: str) -> None:
    for namespace, batch in ((name, "batch"), ("ns", name)):
        with pytest.raises(UsageError, match="can name no batch"):
            StoredResults(LocalStorage(tmp_path), namespace, batch)


# --- an SFTP server that lies ---


class RogueFiles:
    """The files of a server that says of every folder what it is told to."""

    def __init__(self, *entries: Entry) -> None:
        self._entries = entries

    async def stat(self, path: bytes) -> Entry:
        return Entry(b"batch", "d", 0, 0, 0o755)

    async def scan(self, path: bytes) -> list[Entry]:
        return list(self._entries)

    async def readlink(self, path: bytes) -> bytes:
        return b"/etc/passwd"

    def __getattr__(self, name: str) -> object:
        raise AssertionError(f"{name} is not to be asked for")


@pytest.mark.parametrize("name", [b"..", b".", b"", b"../../../.bashrc", b"/etc/passwd", b"a/b", b"a/.."])
@pytest.mark.parametrize("kind", ["f", "d", "l"])
async def test_a_server_that_lists_what_no_folder_holds_is_refused(home: Path, name: bytes, kind: str) -> None:
    storage = SftpStorage(RogueFiles(Entry(name, kind, 4, 0, 0o644)), b"/srv", "sftp://rogue/srv")  # type: ignore[arg-type]
    with pytest.raises(StorageError, match="lists what no folder holds"):
        await pull(StoredResults(storage, "ns", "batch"), target(home), Selection())
    assert untouched(home)


async def test_a_server_with_folders_without_end_is_not_followed(home: Path) -> None:
    storage = SftpStorage(RogueFiles(Entry(b"d", "d", 0, 0, 0o755)), b"/srv", "sftp://rogue/srv")  # type: ignore[arg-type]
    with pytest.raises(StorageError, match="lists what no folder holds"):
        await pull(StoredResults(storage, "ns", "batch"), target(home), Selection())
