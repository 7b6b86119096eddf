"""Files on their way to the head: only what it lacks, on from where a line was cut, checked, whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Iterable
from dataclasses import asdict
from pathlib import Path

import pytest

from distribute_ssh.errors import HeadError, LimitError, OvertakenError, UsageError
from distribute_ssh.head import upload
from distribute_ssh.head.frames import Decoder, Frame, encode, pieces
from distribute_ssh.head.gateway import Gone, Wire
from distribute_ssh.head.offer import Offer, dumped
from distribute_ssh.model import jobsfile, settings
from distribute_ssh.model.units import parse_size
from distribute_ssh.store.incoming import Incoming
from distribute_ssh.store.spool import Spool
from distribute_ssh.store.submission import Submitted
from tests.endtoend.site import Command, Site
from tests.head.site import Head, Screen, cut, error_of, offer_frames
from tests.support.wait import wait_for

SIZE = 64 << 20


def sent(command: Command) -> int:
    """How many bytes a submission says went over the line; about, as it says it."""
    found = re.search(r"sent \d+ of \d+ files?, ([0-9.]+ ?[A-Za-z]+)", command.said())
    return parse_size(found[1].replace(" ", "")) if found else 0


def big(laptop: Site, name: str = "big") -> Path:
    """A batch with one big input."""
    data = laptop.folder / "batches" / name / "data"
    data.parent.mkdir(exist_ok=True)
    data.write_bytes(os.urandom(1 << 20) * (SIZE >> 20))
    return laptop.batch({"a": {"required_files": [str(data)]}}, name=name)


def begun(head: Head) -> int:
    """How much of a file is there that is not whole."""
    sizes = [0]
    for each in (head.site.state / "spool" / "incoming").glob("*/*.*"):
        with contextlib.suppress(FileNotFoundError):  # it became whole in this moment
            sizes.append(each.stat().st_size)
    return max(sizes)


@pytest.mark.sshd
def test_what_the_head_has_is_sent_again_by_nobody(head: Head) -> None:
    ana, bob = head.laptop("ana"), head.laptop("bob")
    first = ana.do("add", big(ana))
    assert sent(first) >= SIZE
    again = ana.do("add", first_jobs(ana))
    assert sent(again) == 0
    theirs = bob.folder / "batches" / "theirs"
    shutil.copytree(ana.folder / "batches" / "big", theirs)
    text = (theirs / "jobs.yaml").read_text().replace(str(ana.folder / "batches" / "big"), str(theirs))
    (theirs / "jobs.yaml").write_text(text.replace("big", "theirs"))
    assert sent(bob.do("add", theirs / "jobs.yaml")) < SIZE


def first_jobs(laptop: Site) -> Path:
    return laptop.folder / "batches" / "big" / "jobs.yaml"


@pytest.mark.sshd
def test_an_upload_that_is_cut_goes_on_where_it_stopped_by_itself(head: Head) -> None:
    ana = head.laptop("ana")
    command = ana.start("add", big(ana))
    head.site.hit(lambda: begun(head) > SIZE // 2, "half of it is there")
    head.sshd.freeze()
    head.sshd.kill_sessions()
    assert command.end() == 0
    assert "trying again" in command.said()
    assert SIZE <= sent(command) < SIZE * 5 // 4
    assert head.site.states("big") == {"a": "queued"}


@pytest.mark.sshd
def test_a_laptop_that_was_closed_while_sending_goes_on_the_next_day(head: Head) -> None:
    ana = head.laptop("ana")
    command = ana.start("add", big(ana))
    head.site.hit(lambda: begun(head) > SIZE // 2, "half of it is there")
    cut(command)
    assert head.site.select("SELECT * FROM batches") == []
    again = ana.do("add", first_jobs(ana))
    assert sent(again) < SIZE * 2 // 3
    assert head.site.states("big") == {"a": "queued"}
    assert not list((head.site.state / "spool" / "incoming" / "ana").iterdir())


@pytest.mark.sshd
def test_several_files_go_up_at_once_and_a_terminal_shows_how_far_they_are(head: Head) -> None:
    ana = head.laptop("ana")
    names = ["one", "two", "three"]
    for name in names:
        with (ana.folder / name).open("wb") as file:
            file.write(name.encode())
            file.truncate(100 << 20)
    jobs = ana.batch({"a": {"required_files": [str(ana.folder / name) for name in names]}})
    screen = Screen(ana, "add", jobs, columns=120)
    incoming = head.site.state / "spool" / "incoming" / "ana"
    head.site.hit(lambda: len(list(incoming.glob("*.*"))) >= 2, "two of them are on their way")
    wait_for(
        lambda: re.search(r"sending +[0-9.]+ .iB of 300 MiB +[0-9.]+ .iB/s", screen.read()),
        "bytes and their rate",
    )
    assert screen.end() == 0
    assert head.site.states() == {"a": "queued"}


@pytest.mark.sshd
def test_folders_modes_and_odd_names_arrive_as_they_do_without_a_head(head: Head) -> None:
    ana = head.laptop("ana")
    tree = ana.folder / "batches" / "tree" / "mesh"
    tree.mkdir(parents=True)
    (tree / "a b\n'c").write_text("odd")
    (tree / "link").symlink_to("a b\n'c")
    tool = tree.parent / "tool"
    tool.write_text("#!/bin/sh\necho ran > distribute_save/ran\n")
    tool.chmod(0o755)
    run = "subprocess.run(['input/tool'], check=True)\nsave('got', open('input/mesh/link', 'rb').read())\n"
    jobs = ana.batch({"a": {"required_files": [str(tree), str(tool)]}}, name="tree", run=run)
    here = ana.do("run", jobs)
    assert here.end() == 0
    assert (head.site.results("a", "tree") / "got").read_text() == "odd"
    assert (head.site.results("a", "tree") / "ran").read_text() == "ran\n"
    # Submitted on the head itself, nothing of it is new: the hashes of all inputs are the same.
    head.site.env["USER"] = "ana"
    assert head.site.data("add", jobs)["submitted"]["kept"] == 1


@pytest.mark.sshd
def test_two_people_who_submit_the_same_batch_at_once_get_one_batch_and_one_refusal(head: Head) -> None:
    ana, bob = head.laptop("ana"), head.laptop("bob")
    commands = [each.start("add", each.batch(["a", "b"]), "--json") for each in (ana, bob)]
    codes = [command.end() for command in commands]
    assert sorted(codes) == [0, 2]
    refused = json.loads(commands[codes.index(2)].answered())["error"]
    assert refused["kind"] == "denied"
    assert head.site.select("SELECT count(*) FROM batches") == [(1,)]
    assert head.site.states() == {"a": "queued", "b": "queued"}


@pytest.mark.sshd
@pytest.mark.parametrize(
    ("limits", "told"),
    [({"files": 2}, "one batch may name 2"), ({"spool": "100"}, "100 may"), ({"jobs": 1}, "2 jobs of ana would wait")],
)
def test_the_limits_of_a_user_are_told_and_the_queue_is_as_it_was(
    head: Head, limits: dict[str, object], told: str
) -> None:
    ana = head.laptop("ana")
    head.site.write_inventory(limits=limits)
    extra = ana.folder / "extra"
    extra.write_text("x" * 200)
    error = ana.data("add", ana.batch({"a": {"required_files": [str(extra)]}, "b": {}}), code=2)["error"]
    assert error["kind"] == "limit"
    assert told in error["message"]
    assert head.site.select("SELECT count(*) FROM batches") in ([], [(0,)])
    # Whoever is logged in there with their own account is not asked.
    assert head.site.data("add", ana.folder / "batches" / "b" / "jobs.yaml")["submitted"]["new"] == 2


@pytest.mark.sshd
def test_what_is_queued_again_counts_against_the_limit_too(head: Head) -> None:
    ana = head.laptop("ana")
    ana.do("add", ana.batch(["a", "b"]))
    ana.do("kill", "-y", "ns/b")
    head.site.write_inventory(limits={"jobs": 1})
    assert "2 jobs of ana would wait" in ana.data("retry", "ns/b", code=2)["error"]["message"]
    assert head.site.states() == {"a": "killed", "b": "killed"}
    assert ana.data("retry", "ns/b", "a")["retried"] == ["a"]


# --- a head that answers what is none of ours ---


class Talk:
    """A conversation in which the head says this."""

    def __init__(self, *said: bytes) -> None:
        self._frames = list(Decoder().feed(b"".join(said)))

    async def hear(self) -> Frame:
        return self._frames.pop(0)

    async def say(self, _data: bytes) -> None:
        pass


class Telling:
    """A line on which every conversation is that one."""

    def __init__(self, *said: bytes) -> None:
        self.head = settings.Head.parse("head")
        self._talk = Talk(*said)

    @contextlib.asynccontextmanager
    async def talk(self, _does: str) -> AsyncIterator[Talk]:
        yield self._talk


HASH = hashlib.sha256(b"data").hexdigest()
ACCEPTED = {"batch_id": 1, "name": "ns/b"}
NONSENSE = {
    "a hash nobody offered": pieces("lacking", dumped([["0" * 64, 0]])),
    "more of a file than there is": pieces("lacking", dumped([[HASH, 5]])),
    "less than nothing": pieces("lacking", dumped([[HASH, -1]])),
    "rows that are none": pieces("lacking", b"[[[[["),
    "a row without end": pieces("lacking", b'["' + b"x" * 100_000 + b'"]'),
    "accepted without a word": [encode("accepted")],
    "accepted in a word": [encode("accepted", submitted="yes")],
    "accepted without a name": [encode("accepted", submitted={"batch_id": 1})],
    "a name that is none": [encode("accepted", submitted=ACCEPTED | {"name": 7})],
    "a count that is none": [encode("accepted", submitted=ACCEPTED | {"new": "many"})],
}


@pytest.mark.parametrize("said", NONSENSE.values(), ids=NONSENSE)
async def test_an_answer_that_makes_no_sense_is_an_error_of_the_head(tmp_path: Path, said: Iterable[bytes]) -> None:
    offer = small_offer(tmp_path)
    assert offer.sizes == {HASH: 4}
    line = Telling(*said)
    with pytest.raises(HeadError, match="none of ours"):
        await upload._Sending(offer, None).run(line, tmp_path / "jobs.yaml")  # type: ignore[arg-type]


async def test_another_version_may_say_more_and_less_of_what_it_accepted(tmp_path: Path) -> None:
    line = Telling(encode("accepted", submitted=ACCEPTED | {"new": 2, "colour": "blue"}))
    accepted = await upload._Sending(small_offer(tmp_path), None).run(line, tmp_path / "jobs.yaml")  # type: ignore[arg-type]
    assert accepted.submitted == asdict(Submitted(1, "ns/b", 2))


async def test_whoever_is_overtaken_waits_while_the_file_grows_and_goes_on_when_it_does_not(tmp_path: Path) -> None:
    sending = upload._Sending(small_offer(tmp_path), None)
    sending.overtaken = True  # by another submission of the same person, of which a part is there by now

    def look(at: int, *more: bytes) -> Awaitable[upload.Accepted]:
        return sending.run(Telling(*pieces("lacking", dumped([[HASH, at]])), *more), tmp_path)  # type: ignore[arg-type]

    for at in (1, 2):
        with pytest.raises(OvertakenError):
            await look(at)
    assert sending.sent == 0
    accepted = await look(2, encode("done"), encode("accepted", submitted=ACCEPTED))
    assert (accepted.files, sending.overtaken) == (1, False)


def small_offer(folder: Path) -> Offer:
    (folder / "same.py").write_text("data")
    (folder / "jobs.yaml").write_text(
        "meta: {namespace: ns, batch_name: b, capabilities: []}\n"
        "python: {initialize: {build_file: same.py}, jobs: [{name: a, file: same.py}]}\n"
    )
    spec = jobsfile.read(folder / "jobs.yaml")
    return Offer(spec, upload.identified(spec))


# --- the room of one person, without a line ---


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def room(tmp_path: Path) -> Incoming:
    return Incoming(tmp_path / "spool", "ana", most_bytes=1000, most_files=3)


def test_a_file_comes_in_pieces_and_gets_its_name_when_it_is_whole(room: Incoming) -> None:
    upload = room.begin(digest(b"abcdef"), 6, 0)
    upload.write(b"abc")
    assert room.cut() == {digest(b"abcdef"): (6, 3)}
    assert room.whole(digest(b"abcdef")) is None
    upload.close()
    upload = room.begin(digest(b"abcdef"), 6, 3)
    upload.write(b"def")
    assert upload.is_complete
    upload.finish()
    found = room.whole(digest(b"abcdef"))
    assert found is not None
    assert found.read_bytes() == b"abcdef"
    assert found.stat().st_mode & 0o777 == 0o400


def test_what_is_not_what_it_was_said_to_be_is_refused_and_gone(room: Incoming) -> None:
    upload = room.begin(digest(b"abc"), 3, 0)
    upload.write(b"xyz")
    with pytest.raises(UsageError, match="sha256"):
        upload.finish()
    assert list(room.folder.iterdir()) == []


def test_a_file_that_is_longer_than_it_was_said_to_be_is_refused(room: Incoming) -> None:
    with pytest.raises(UsageError, match="longer"):
        room.begin(digest(b"abc"), 3, 0).write(b"abcd")


def test_whoever_comes_second_takes_over_and_the_first_can_change_nothing_any_more(room: Incoming) -> None:
    first = room.begin(digest(b"abcdef"), 6, 0)
    first.write(b"abc")
    second = room.begin(digest(b"abcdef"), 6, 3)
    with pytest.raises(HeadError, match="somewhere else"):
        first.write(b"XXX")
    second.write(b"def")
    second.finish()
    with pytest.raises(HeadError, match="somewhere else"):
        first.write(b"XXX")
    with pytest.raises(HeadError, match="somewhere else"):
        first.finish()
    found = room.whole(digest(b"abcdef"))
    assert found is not None
    assert found.read_bytes() == b"abcdef"


def test_what_was_asked_room_for_counts_before_it_is_there(room: Incoming) -> None:
    room.begin(digest(b"a"), 600, 0)
    with pytest.raises(LimitError):
        room.begin(digest(b"b"), 600, 0)
    with pytest.raises(LimitError):  # another conversation of the same person
        Incoming(room.folder.parents[1], "ana", most_bytes=1000, most_files=3).begin(digest(b"b"), 600, 0)
    for name in (b"b", b"c"):
        room.begin(digest(name), 1, 0)
    with pytest.raises(LimitError):
        room.begin(digest(b"d"), 1, 0)


def test_what_no_batch_took_goes_after_two_days(room: Incoming) -> None:
    room.begin(digest(b"abc"), 3, 0).write(b"a")
    whole = room.begin(digest(b"x"), 1, 0)
    whole.write(b"x")
    whole.finish()
    spool = Spool(room.folder.parents[1])
    spool.add_bytes(b"else")  # makes the spool
    spool.remove_unused(set(), time.time() + 86_400)
    assert len(list(room.folder.iterdir())) == 2
    spool.remove_unused(set(), time.time() + 3 * 86_400)
    assert list(room.folder.iterdir()) == []


def test_no_hash_is_no_path(room: Incoming) -> None:
    for name in ("../x", "/etc/passwd", "A" * 64, digest(b"")[:-1] + "\n", ""):
        with pytest.raises(ValueError, match="no sha256"):
            room.begin(name, 1, 0)


def test_a_laptop_that_says_nothing_is_gone() -> None:
    source, sink = os.pipe()
    wire = Wire(source, sink)
    with pytest.raises(Gone):
        wire.read(0.01)
    os.write(sink, encode("ping"))
    with pytest.raises(Gone):  # a sign of life is no word
        wire.read(0.01)
    os.close(sink)
    with pytest.raises(Gone):
        wire.read(60)
    os.close(source)


@pytest.mark.sshd
def test_what_is_offered_is_checked_before_anything_is_sent(shared: Head) -> None:
    said = offer_frames("meta: {}", [])
    assert error_of(shared.talk("ana", *said, does="submit"))["kind"] == "file"
    assert error_of(shared.talk("ana", encode("put", b"x"), does="submit"))["kind"] == "head"
