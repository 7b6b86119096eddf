"""Results from a head: with nothing but a key, cut and gone on with, and only what is a result."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from distribute_ssh.head.frames import encode, hello, pieces
from distribute_ssh.storage.listing import Item
from distribute_ssh.storage.wire import row
from tests.endtoend.site import Site
from tests.head.site import Head, cut, error_of, pretend
from tests.storage.places import tree

pytestmark = pytest.mark.sshd

JOB = "save('result', JOB.encode())\nos.symlink('result', SAVE + '/latest')\nos.symlink('/etc', SAVE + '/etc')\n"


def test_results_come_to_a_laptop_with_nothing_but_a_key(head: Head) -> None:
    ana = head.laptop("ana")
    jobs = ana.batch({"a": JOB, "b": JOB})
    told = ana.data("run", "--pull", jobs)
    assert told["pull"]["problems"] == []
    there, here = tree(head.site.results(), own=True), tree(ana.folder / "b", own=True)
    assert here == {path: entry for path, entry in there.items() if not path.endswith(b"/etc")}
    assert sorted(each["path"] for each in told["pull"]["refused"]) == ["a/etc", "b/etc"]
    again = ana.data("pull", jobs)["pull"]
    assert (again["files"], again["bytes"]) == (0, 0)
    # Another's batch too, and a part of it; the account on the head itself sees the same.
    bob = head.laptop("bob")
    part = bob.data("pull", "ns/b", "--include", "result$", "--job", "a")["pull"]
    assert part["files"] == 1
    assert (bob.folder / "b" / "a" / "result").read_bytes() == b"a"
    assert bob.data("pull", "ns/b", "--list") == head.site.data("pull", "ns/b", "--list")
    assert bob.data("pull", "ns/c", code=3)["error"]["hint"] == "did you mean ns/b?"


def test_finished_jobs_come_while_others_run_and_a_cut_one_goes_on(head: Head) -> None:
    ana = head.laptop("ana")
    size = 60 << 20
    jobs = ana.batch({"big": f"save('big', os.urandom(1 << 20) * {size >> 20})\n", "slow": "gate('go')\n" + JOB})
    ana.do("run", "--detach", jobs)
    runner = head.site.start("runner")
    head.site.wait_state("big", "done")
    pulling = ana.start("pull", jobs)
    beside = ana.folder / "b" / ".distribute-pull"
    ana.hit(
        lambda: not pulling.is_running or any(each.stat().st_size for each in beside.glob("*.part")), "it has begun"
    )
    assert pulling.is_running, "it was over before it could be cut"
    cut(pulling)
    told = ana.data("pull", jobs)["pull"]
    assert told["unfinished"] == [{"job": "slow", "state": "running"}]
    assert told["bytes"] < size
    assert (ana.folder / "b/big/big").read_bytes() == (head.site.results("big") / "big").read_bytes()
    head.site.open("go")
    head.site.wait_state("slow", "done")
    assert ana.data("pull", jobs)["pull"]["files"] >= 3
    runner.interrupt(signal.SIGTERM)


def test_only_what_is_a_file_of_the_batch_is_given_away(shared: Head) -> None:
    ana = shared.laptop("ana")
    ana.do("run", ana.batch({"a": JOB}, name="mine"))
    secret = shared.site.storage / "ns" / "secret"
    secret.write_text("hidden")

    def asked(batch: str, *requests: object) -> str:
        said = [piece for each in requests for piece in pieces("ask", json.dumps(each).encode())]
        answered = shared.talk("bob", encode("results", batch=batch), *said, does="pull", hangs_up=True)
        return b"".join(frame.data for frame in answered if frame.kind == "bytes").decode() or str(error_of(answered))

    for path in ("../secret", "a/etc/passwd", "/etc/passwd", "a/../../secret", "a/latest", "a", "", "a/\0"):
        assert "no file there" in asked("ns/mine", {"fetch": [[path, 10, 0]]})
    for batch in ("ns/..", "../ns", "ns/secret/..", "/etc", "a\nb", "x" * 2000, "jobs.yaml", "/etc/passwd"):
        assert "hidden" not in asked(batch, {"listing": 1})
        assert "root:" not in asked(batch, {"fetch": [["passwd", 10, 0]]})
    for nonsense in ({"drop": 1}, {"fetch": 7}, [], {"fetch": [["a/result", 1, 9]]}):
        assert "does not understand" in asked("ns/mine", nonsense)
    assert "a/result" in asked("ns/mine", {"listing": 1})


def test_a_workstation_s_key_pulls_nothing(head: Head, tmp_path: Path) -> None:
    head.user("desk", "--node", "here")
    said = head.talk("desk", encode("results", batch="ns/b"), does="pull", hangs_up=True)
    assert error_of(said)["kind"] == "denied"


def test_storage_is_looked_at_and_cared_for_from_a_laptop(head: Head) -> None:
    ana, bob = head.laptop("ana"), head.laptop("bob")
    jobs = ana.batch({"a": JOB})
    ana.do("run", jobs)
    assert bob.data("verify", "ns/b")["verified"]["problems"] == []
    assert [each["name"] for each in bob.data("archive", "list")["batches"]] == ["ns/b"]
    assert bob.data("archive", "rm", "ns/b", "-y", code=2)["error"]["kind"] == "denied"
    assert head.site.results("a").exists()
    assert ana.data("history", "--totals")["people"][0]["name"] == "ana"
    ana.do("archive", "rm", jobs, "-y")
    assert not head.site.results().exists()


def test_before_anything_has_ended_the_rest_is_named(shared: Head) -> None:
    ana = shared.laptop("ana")
    jobs = ana.batch(["early"], name="early")
    ana.do("add", jobs)
    told = ana.data("pull", jobs)["pull"]
    assert (told["files"], told["unfinished"]) == (0, [{"job": "early", "state": "queued"}])
    ana.do("kill", "ns/early", "-y")


SECRET = "save('x', b'1')\nprint('a secret line')\nsys.exit(3)\n"


def test_what_is_private_is_seen_by_all_and_read_by_its_submitter_and_administrators(shared: Head) -> None:
    ana, bob, eva = shared.laptop("ana"), shared.laptop("bob"), shared.laptop("eva")
    ana.do("run", ana.batch({"a": JOB, "z": SECRET}, name="diary", meta={"private": True}), code=1)
    assert "ns/diary" in bob.do("status").answered()
    for command in (
        ["pull", "ns/diary"],
        ["logs", "ns/diary", "a"],
        ["verify", "ns/diary"],
        ["verify", "ns/diary", "z"],
    ):
        assert "ana" in bob.do(*command, code=2).said()
    assert not (bob.folder / "diary").exists()
    for allowed in (ana, eva):
        assert allowed.data("pull", "ns/diary")["pull"]["files"] > 0
        assert allowed.data("verify", "ns/diary")["verified"]["problems"] == []
        allowed.do("logs", "ns/diary", "a")


def test_the_last_line_of_a_private_job_is_told_to_nobody_else_wherever_its_end_is(head: Head) -> None:
    ana, bob, eva = head.laptop("ana"), head.laptop("bob"), head.laptop("eva")
    ana.do("run", ana.batch({"z": SECRET}, name="diary", meta={"private": True}), code=1)
    built = ana.batch(["y"], name="unbuilt", build="sys.exit('a secret line')\n", meta={"private": True})
    ana.do("run", built, code=1)
    asked = [
        ["status", "ns/diary"], ["status", "ns/diary", "--json"], ["explain", "ns/diary"], ["explain", "ns/diary", "z"],
        ["follow", "ns/diary"], ["history"], ["history", "ns/diary", "--csv"],
        ["status", "ns/unbuilt"], ["explain", "ns/unbuilt", "y"],
    ]  # fmt: skip
    for command in asked:
        seen = bob.do(*command, code=1 if command[0] == "follow" else 0)
        assert "secret" not in seen.answered() + seen.said(), command
        assert "exit 3" in seen.answered() or "build failed" in seen.answered(), command
    assert "secret" in ana.do("history").answered()
    assert "secret" in ana.do("status", "ns/unbuilt").answered()
    assert "secret" in eva.do("status", "ns/diary").answered()
    assert "secret" in head.site.do("status", "ns/diary").answered()


def test_what_is_private_stays_so_when_the_queue_was_lost_and_storage_alone_knows_of_it(head: Head) -> None:
    ana, bob, eva = head.laptop("ana"), head.laptop("bob"), head.laptop("eva")
    for name, private in (("diary", True), ("open", False)):
        ana.do("run", ana.batch({"a": JOB}, name=name, meta={"private": private}))
    for each in head.site.state.glob("queue.db*"):
        each.unlink()
    for command in ("pull", "verify"):
        assert "ana keeps the results" in bob.do(command, "ns/diary", code=2).said()
    bob.do("verify", "ns/open")
    ana.do("pull", "ns/diary")
    eva.do("verify", "ns/diary")


# --- a head that lies ---


def answering(head: Head, name: str, *said: bytes) -> Site:
    """A laptop whose head says this, whatever it is asked."""
    answer = head.folder / f"answer-{name}"
    answer.write_bytes(b"".join([hello(user=name, role="submitter"), *said]))
    return pretend(head, name, f"cat {answer} -")


def offered(batch: str) -> list[bytes]:
    """Results of a batch of this name, with one file in them."""
    listing = row(b"evil", Item("f", 4, 10**18, 0o644)) + b"\n"
    told = json.dumps({"batch": batch, "unfinished": []}).encode()
    return [*pieces("results", told), encode("bytes", listing), encode("bytes", b"0 4\nevil\n")]


@pytest.mark.parametrize(
    "batch",
    ["ns/../../x", "../../x", "ns/..", "ns/.", "/etc/x", "ns//etc/x", "ns/.ssh", ""],
    ids=lambda batch: ascii(batch[:12]),
)  # fmt: skip
def test_a_head_that_calls_a_batch_by_a_path_is_not_believed(shared: Head, batch: str) -> None:
    laptop = answering(shared, f"path-{abs(hash(batch))}", *offered(batch))
    before = sorted(laptop.folder.parent.glob("*"))
    error = laptop.data("pull", "ns/b", "--save-dir", "down", code=6)["error"]
    assert error["kind"] == "head"
    assert not (laptop.folder / "down").exists()
    assert not list(laptop.folder.rglob("evil"))
    assert sorted(laptop.folder.parent.glob("*")) == before


def test_what_such_a_head_says_of_a_batch_that_could_be_comes_into_its_folder_alone(shared: Head) -> None:
    laptop = answering(shared, "plain", *offered("ns/other"))
    assert laptop.data("pull", "ns/b", "--save-dir", "down")["pull"]["into"] == "down/other"
    assert [str(path.relative_to(laptop.folder)) for path in laptop.folder.rglob("evil")] == ["down/other/evil"]
