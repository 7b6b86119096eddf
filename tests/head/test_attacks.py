"""What somebody tries who has a valid key: nothing outside of their room is touched, and nobody else notices."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from distribute_ssh.cli.gateway import AT_ONCE
from distribute_ssh.head.frames import MAX_HEADER, Frame, encode, hello, pieces
from distribute_ssh.store.incoming import Incoming
from tests.head.conftest import a_head
from tests.head.site import Head, answers, error_of, inside, offer_frames, output, run_frame
from tests.support import processes
from tests.support.wait import wait_for

pytestmark = pytest.mark.sshd


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    """A head with a batch of ana's that waits, and an sshd that takes any environment from anybody."""
    with a_head(tmp_path_factory.mktemp("attacked"), "AcceptEnv *") as made:
        made.user("lab", "--node", "here")
        made.site.enter("other", connection="local", scratch=str(made.folder / "other"))
        ana = made.laptop("ana")
        ana.do("add", ana.batch(["a", "b"], name="hers"))
        ana.do("hold", "hers", "b")
        yield made
        assert output(made.run("bob", "status", "-q")) == "ns/hers\n"  # the head is up, and others notice nothing


@pytest.fixture
def head(attacked: Head) -> Iterator[Head]:
    """The same, and afterwards everything is as it was."""
    before = state(attacked)
    yield attacked
    assert not canary(attacked).exists()
    assert state(attacked) == before


def canary(head: Head) -> Path:
    """What nobody should be able to make."""
    return head.folder / "canary"


def state(head: Head) -> list[object]:
    """All that an attack could have changed."""
    tables = ("batches", "jobs", "history", "nodes")
    rows = [head.site.select(f"SELECT * FROM {table}") for table in tables]
    return [*rows, head.authorized_keys.read_bytes(), sorted(head.site.storage.rglob("*"))]


# --- the key opens nothing but the gateway ---

COMMANDS = {
    "a command": "touch CANARY",
    "more behind a semicolon": "distribute gateway; touch CANARY",
    "more on a second line": "distribute gateway\ntouch CANARY",
    "a substitution": "distribute gateway $(touch CANARY) `touch CANARY`",
    "a leading dash": "-c 'touch CANARY'",
    "a gateway of an administrator": "distribute gateway --user eva --role admin",
    "another program's server": "rsync --server --sender . /etc/passwd",
    "very long": "x" * 100_000,
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_whatever_is_asked_for_the_gateway_is_what_runs_and_for_whom_the_key_is(head: Head, command: str) -> None:
    done = head.ssh("ana", command.replace("CANARY", str(canary(head))))
    (greeting,) = answers(done.stdout)
    assert (greeting.fields["user"], greeting.fields["role"]) == ("ana", "submitter")
    if "gateway" not in command:
        assert b"no shell" in done.stderr


def test_a_shell_is_none(head: Head) -> None:
    typed = f"touch {canary(head)}\nexit\n".encode()
    assert b"PTY allocation request failed" in head.ssh("ana", "-tt", "", stdin=typed).stderr
    done = head.ssh("ana", stdin=typed)
    assert b"no shell" in done.stderr
    assert error_of(answers(done.stdout))["kind"] == "head"


@pytest.mark.parametrize("program", ["sftp", "scp", "scp -O", "rsync"])
def test_files_cannot_be_had_or_brought_with_other_programs(head: Head, program: str) -> None:
    if shutil.which(program.split()[0]) is None:
        pytest.skip(f"there is no {program} here")
    config = str(head.lab.ssh_config)
    secret = head.folder / "secret"
    secret.write_text("secret")
    got = head.folder / "got"
    argv = {
        "sftp": ["sftp", "-F", config, f"head-ana:{secret}", str(got)],
        "scp": ["scp", "-F", config, f"head-ana:{secret}", str(got)],
        "scp -O": ["scp", "-O", "-F", config, f"head-ana:{secret}", str(got)],
        "rsync": ["rsync", "-e", f"ssh -F {config}", f"head-ana:{secret}", str(got)],
    }[program]
    read = subprocess.run(argv, capture_output=True, stdin=subprocess.DEVNULL, timeout=30, check=False)
    assert read.returncode != 0
    assert not got.exists()
    target = f"head-ana:{canary(head)}"
    write = [*argv[:-2], str(secret), target] if program != "sftp" else ["sftp", "-b", "-", "-F", config, "head-ana"]
    put = f"put {secret} {canary(head)}\n".encode()
    wrote = subprocess.run(write, capture_output=True, input=put, timeout=30, check=False)
    assert wrote.returncode != 0


@pytest.mark.parametrize(
    "options", [["-W", "127.0.0.1:PORT"], ["-N", "-o", "ExitOnForwardFailure=yes", "-R", "0:127.0.0.1:PORT"]]
)
def test_nothing_is_forwarded(head: Head, options: list[str]) -> None:
    filled = [option.replace("PORT", str(head.sshd.port)) for option in options]
    argv = ["ssh", "-F", str(head.lab.ssh_config), *filled, "head-ana"]
    done = subprocess.run(argv, capture_output=True, stdin=subprocess.DEVNULL, timeout=30, check=False)
    assert done.returncode == 255
    assert b"prohibited" in done.stderr or b"forwarding failed" in done.stderr


def test_neither_an_agent_nor_any_variable_of_the_client_comes_along(head: Head, tmp_path: Path) -> None:
    """The sshd of these tests accepts all of them, which no sshd should."""
    for name in ("sitecustomize.py", "usercustomize.py", "click.py"):
        (tmp_path / name).write_text(f"open({str(canary(head))!r}, 'w')\n")
    sent = {
        "DISTRIBUTE_HOME": str(tmp_path / "evil"),
        "DISTRIBUTE_INVENTORY": str(tmp_path / "evil.yaml"),
        "DISTRIBUTE_CONFIG": str(tmp_path / "evil.yaml"),
        "DISTRIBUTE_ACTOR": json.dumps({"role": "admin", "user": "eva", "node": None}),
        "DISTRIBUTE_HEAD": "elsewhere",
        "PYTHONPATH": str(tmp_path),
        "PYTHONSTARTUP": str(tmp_path / "click.py"),
        "XDG_STATE_HOME": str(tmp_path),
        "LC_ALL": "() { :;}; touch " + str(canary(head)),
    }
    options = ["-o", "SetEnv " + " ".join(f'"{key}={value.replace(chr(34), "")}"' for key, value in sent.items())]
    argv = ["ssh", "-A", "-F", str(head.lab.ssh_config), *options, "head-ana", "distribute gateway"]
    agent = subprocess.Popen(["ssh-agent", "-D", "-a", str(tmp_path / "agent")], stdout=subprocess.DEVNULL)
    try:
        wait_for((tmp_path / "agent").exists, "an agent listens")
        env = {**os.environ, "SSH_AUTH_SOCK": str(tmp_path / "agent")}
        with subprocess.Popen(argv, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as asking:
            assert asking.stdin is not None
            assert asking.stdout is not None
            asking.stdin.write(hello(does="command"))
            asking.stdin.flush()
            assert asking.stdout.readline() == b"\n"
            assert b'"ana"' in asking.stdout.readline()
            mine = {"gateway", "--user", "ana", f"--home={head.site.state}"}
            (gateway,) = [each for each in processes.everything() if mine <= set(each.command)]
            asking.stdin.write(run_frame("status", "-q"))
            asking.stdin.flush()
            assert gateway.command[1] == "-I"
            assert b"ns/hers" in asking.stdout.read()
    finally:
        agent.terminate()
        agent.wait()
    assert not (tmp_path / "evil").exists()


# --- what they ask the gateway for ---


def asked(head: Head, *argv: str) -> list[Frame]:
    """What the gateway answers to a command of ana's that it does not run."""
    return inside(head, "ana", run_frame(*argv))


def test_a_path_for_a_name_a_file_of_the_head_and_what_is_not_on_the_list_are_refused_at_the_real_door(
    head: Head,
) -> None:
    for argv in (["status", "../x"], ["status", "--inventory=/etc/passwd"], ["users", "list"], ["nodes", "probe"]):
        assert error_of(head.run("ana", *argv))["kind"] in ("usage", "denied")
    assert error_of(head.talk("ana", *offer_frames(BOMBS["aliases"], []), does="submit"))["kind"] == "file"
    assert error_of(head.talk("ana", *SENT["more and more"][:1], does="upload"))["kind"] == "usage"


NAMES = ["..", "../..", "/etc/passwd", "ns/../hers", "./hers", "ns//hers", "-rf", "~root", "$(id)", "a\nb", "a b",
         "\x1b[2J", "x" * 5000, "ns/" + "y" * 5000, "a/b/c", "", "jobs.yaml/..", "\udc80", "ｎs/hers"]  # fmt: skip


@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name[:12]))
def test_a_batch_s_name_is_a_name_and_never_a_path(head: Head, name: str) -> None:
    for command in (["status"], ["kill", "-y"], ["logs"]):
        error = error_of(asked(head, *command, "--", name, *(["a"] if command == ["logs"] else [])))
        assert error["kind"] == "usage"


def test_a_name_that_could_be_a_file_s_is_looked_up_among_batches_alone(head: Head) -> None:
    said = head.run("ana", "--json", "status", "passwd.yaml")
    assert json.loads(output(said))["error"]["kind"] == "no-match"


@pytest.mark.parametrize("name", ["../hers/a", "a\nb", "-y", "x" * 5000], ids=lambda name: ascii(name[:12]))
def test_a_job_s_name_is_looked_up_in_its_batch_alone(head: Head, name: str) -> None:
    for command in ("logs", "explain", "kill"):
        said = head.run("ana", "--json", command, *(["-y"] if command == "kill" else []), "--", "ns/hers", name)
        assert json.loads(output(said))["error"]["kind"] == "no-match"


NOT_RUN = """
(nothing)|--json|nosuch|sta|-- --help|--help|status --help|--version|status --no-such-option|logs ns/hers a --build
template python --output=CANARY|template python --output=-|completion bash|where|gateway|gateway --user eva --role admin
users list|users add mallory /etc/hostname --admin|users remove eva|add /etc/hostname|run CANARY|run --plan CANARY
runner|runner --once|nodes drain here|nodes trust here|nodes probe|nodes doctor|pause here|resume here|pause
status --inventory=CANARY|--inventory /etc/passwd status|--head elsewhere status|status --head=elsewhere
--debug status|status --debug
"""
"""One command line after the other."""


@pytest.mark.parametrize("line", NOT_RUN.strip().replace("\n", "|").split("|"))
def test_what_is_not_on_the_list_of_a_submitter_is_not_run(head: Head, line: str) -> None:
    argv = line.replace("(nothing)", "").split()
    error = error_of(asked(head, *(each.replace("CANARY", str(canary(head))) for each in argv)))
    assert error["kind"] in ("usage", "denied")


def test_words_that_are_no_text_are_refused_before_anything_runs(head: Head) -> None:
    for word in ("\ud800", "\udc80"):
        for argv in (["history", "--user", word], ["explain", "ns/hers", word], ["notify", "--test", word]):
            assert error_of(asked(head, *argv))["kind"] == "usage"


@pytest.mark.parametrize("command", ["kill", "hold", "release", "retry"])
def test_nobody_changes_what_is_another_s(head: Head, command: str) -> None:
    yes = ["-y"] if command == "kill" else []
    said = head.run("bob", "--json", command, *yes, "ns/hers")
    assert said[-1].fields["code"] == 2
    assert json.loads(output(said))["error"]["kind"] == "denied"
    assert "ana" in output(said)


def test_nobody_submits_in_the_place_of_another_s_batch(head: Head) -> None:
    bob = head.laptop("bob")
    jobs = bob.batch(["a", "b", "c"], name="hers")
    for options in ([], ["--replace"], ["--fresh", "--replace"]):
        assert bob.data("add", *options, jobs, code=2)["error"]["kind"] == "denied"


@pytest.mark.parametrize(
    "argv",
    [
        ["status"], ["logs", "ns/hers", "a"], ["kill", "-y", "ns/hers"], ["nodes", "drain", "here"],
        ["pause", "other"], ["resume", "other"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_the_key_of_a_workstation_does_nothing_but_pause_it(head: Head, argv: list[str]) -> None:
    assert error_of(head.run("lab", *argv))["kind"] == "denied"
    assert error_of(head.talk("lab", does="submit"))["kind"] == "denied"
    assert output(head.run("lab", "nodes", "-q")) == "here\n"


# --- what they send ---

JOBS = """\
meta: {namespace: ns, batch_name: NAME, capabilities: []}
python:
  initialize: {build_file: build.py}
  jobs: [{name: JOB, file: run.py, required_files: [{path: data, alias: ALIAS}]}]
"""
EMPTY = hashlib.sha256(b"").hexdigest()
FILES: list[list[Any]] = [[f"/home/ana/{name}", EMPTY, 0, "file", False] for name in ("build.py", "run.py", "data")]


def jobs(name: str = "mine", job: str = "j", alias: str = "data") -> str:
    """A jobs file with such names; JSON's quotes are YAML's."""
    return JOBS.replace("NAME", json.dumps(name)).replace("JOB", json.dumps(job)).replace("ALIAS", json.dumps(alias))


BOMBS = {
    "aliases": "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{chr(98 + n)}: &{chr(98 + n)} [{','.join(['*' + chr(97 + n)] * 9)}]\n" for n in range(12)
    ),
    "nesting": "[" * 10_000,
    "flow mappings": "{a: " * 10_000,
    "merge keys": "a: &a {x: 1}\nb: {<<: [" + ",".join(["*a"] * 10_000) + "]}",
    "a tag": "!!python/object/apply:os.system ['touch CANARY']",
    "many documents": "---\na: 1\n" * 10_000,
    "bytes": "\x00\x01\x02",
    "nothing": "",
}  # fmt: skip


@pytest.mark.parametrize("source", BOMBS.values(), ids=BOMBS)
def test_a_jobs_file_that_is_a_bomb_is_an_error_in_a_file(head: Head, source: str) -> None:
    said = offer_frames(source.replace("CANARY", str(canary(head))), [])
    assert error_of(inside(head, "ana", *said, does="submit"))["kind"] == "file"


@pytest.mark.parametrize("bad", ["..", "../x", "/etc/x", "a\nb", "a\0b", "x" * 5000, "", "-rf", ".hidden", "a/b"])
def test_names_in_a_jobs_file_lead_nowhere(head: Head, bad: str) -> None:
    offers = [jobs(name=bad), jobs(job=bad)]
    if bad not in ("-rf", ".hidden", "a\nb"):  # on a node, these are names like others
        offers.append(jobs(alias=bad))
    for source in offers:
        assert error_of(inside(head, "ana", *offer_frames(source, FILES), does="submit"))["kind"] == "file"


def with_one(**changes: object) -> list[list[object]]:
    """The list of files, the first of them with something odd."""
    names = ("path", "sha256", "size", "kind", "executable")
    first = [changes.get(name, value) for name, value in zip(names, FILES[0], strict=True)]
    return [first, *FILES[1:]]


LISTS = {
    "a hash that is a path": with_one(sha256="../../../../etc/passwd"),
    "a hash that is too short": with_one(sha256="00"),
    "a hash with a line end": with_one(sha256=EMPTY[:-1] + "\n"),
    "a negative size": with_one(size=-1),
    "an enormous size": with_one(size=1 << 60),
    "a size that is no number": with_one(size=1.5),
    "a size that is true": with_one(size=True),
    "two sizes of one hash": with_one(size=7),
    "a kind that is none": with_one(kind="device"),
    "a script that is a folder": with_one(kind="tree"),
    "another path": with_one(path="/etc/shadow"),
    "a file too few": FILES[1:],
    "a file too many": [*FILES, ["/etc/passwd", EMPTY, 0, "file", False]],
    "rows that are none": [[1, 2], {}, None],
    "not even rows": [["x"] * 5],
}


@pytest.mark.parametrize("files", LISTS.values(), ids=LISTS)
def test_a_list_of_files_that_does_not_fit_is_refused(head: Head, files: list[list[object]]) -> None:
    assert error_of(inside(head, "ana", *offer_frames(jobs(), files), does="submit"))["kind"] == "head"


def test_more_rows_than_a_batch_may_have_are_counted_and_never_read(head: Head) -> None:
    """Each of these is three bytes on the line, and would be seventy as an object."""
    said = [*offer_frames(jobs(), []), *pieces("files", b"\n".join([b"[]"] * 5_000_000))]
    error = error_of(inside(head, "ana", said[0], said[1], *said[3:], does="submit"))
    assert (error["kind"], "5,000,000 files" in error["message"]) == ("limit", True)


@pytest.mark.parametrize("size", [1, 400_000_000_000])
def test_a_false_size_is_refused_also_of_what_the_head_has_already(head: Head, size: int) -> None:
    """Too small, it would pass every limit; too large, no node would have room, for whoever is sent to it beside."""
    false = [[path, EMPTY, size, kind, executable] for path, _, _, kind, executable in FILES]
    said = [*offer_frames(jobs(), false), put(b""), encode("accept")]
    assert "not the size of that content" in error_of(inside(head, "ana", *said, does="submit"))["message"]
    incoming = head.site.state / "spool" / "incoming" / "ana"
    (incoming / EMPTY).unlink()


def put(data: bytes, sha256: str | None = None, size: int | None = None, offset: int = 0) -> bytes:
    name = hashlib.sha256(data).hexdigest() if sha256 is None else sha256
    return encode("put", data, sha256=name, size=len(data) if size is None else size, offset=offset)


SENT = {
    "another hash": (put(b"data", sha256=EMPTY), "usage"),
    "a path for a hash": (put(b"data", sha256="../../../canary"), "head"),
    "more than was said": (put(b"data", size=2), "usage"),
    "more and more": (put(b"data", size=5) + encode("more", b"x" * 1000) * 1000, "usage"),
    "an end before the end": (put(b"data", size=50) + encode("sync"), "head"),
    "empty pieces": (put(b"data", size=50) + encode("more"), "head"),
    "in the middle of nothing": (put(b"data", size=500, offset=100), "head"),
    "more than there is room for": (put(b"data", size=1 << 52), "limit"),
    "a batch that was not offered": (encode("accept"), "head"),
}


@pytest.mark.parametrize(("said", "kind"), SENT.values(), ids=SENT)
@pytest.mark.parametrize("does", ["upload", "submit"])
def test_what_is_sent_and_is_not_as_it_should_be_is_refused(head: Head, does: str, said: bytes, kind: str) -> None:
    assert error_of(inside(head, "ana", said, does=does))["kind"] == kind


def test_what_is_cut_off_waits_in_the_room_of_its_sender_alone(head: Head) -> None:
    said = head.talk(
        "ana", put(b"data", sha256=hashlib.sha256(b"d").hexdigest(), size=1000), does="upload", hangs_up=True
    )
    assert [frame.kind for frame in said] == ["hello"]
    incoming = head.site.state / "spool" / "incoming"
    assert {path.parent.name for path in incoming.rglob("*.*")} == {"ana"}


def test_a_jobs_file_of_100_mb_is_refused_before_it_is_sent(head: Head) -> None:
    begin = encode("offer", path="/home/ana/jobs.yaml", fresh=False, replace=False)
    first = next(pieces("source", b"x" * (100 << 20)))
    error = error_of(head.talk("ana", begin, first, does="submit"))
    assert "at most 8,388,608" in error["message"]


def test_a_list_of_ten_million_files_is_refused_before_it_is_sent(head: Head) -> None:
    begin = encode("offer", path="/home/ana/jobs.yaml", fresh=False, replace=False)
    first = encode("files", b"[", total=10_000_000 * 80)
    error = error_of(head.talk("ana", begin, *pieces("source", jobs().encode()), first, does="submit"))
    assert "at most" in error["message"]


def test_a_path_for_the_jobs_file_is_a_word_for_messages(head: Head) -> None:
    for path in ("relative", "", "/a\0b", "/" + "x" * 5000):
        assert error_of(inside(head, "ana", *offer_frames(jobs(), FILES, path=path), does="submit"))["kind"] == "head"


GARBAGE = {
    "no frames": b"SSH-2.0-x\r\n\r\n\0\0\0\5\1",
    "no line end": b"x" * (2 * MAX_HEADER),
    "no object": b"[1]\n",
    "no kind": b"{}\n",
    "deep JSON": b"[" * 60_000 + b"\n",
    "a number with many digits": b'{"is": "put", "size": ' + b"9" * 6000 + b"}\n",
    "more bytes than a frame may have": b'{"is": "put", "bytes": 999999999999}\n',
    "negative bytes": b'{"is": "put", "bytes": -1}\n',
    "bytes that are true": b'{"is": "put", "bytes": true}\n',
    "argv that is no list": encode("run", argv="status"),
    "argv with numbers": encode("run", argv=[1, 2]),
    "argv with NUL": encode("run", argv=["status", "a\0b"], columns=80, rows=24, term="x"),
    "a screen of a million columns": encode("run", argv=["status"], columns=1 << 40, rows=24, term="x"),
    "a terminal with a name": encode("run", argv=["status"], columns=80, rows=24, term="x" * 5000),
    "another kind": encode("shell", argv=["sh"]),
}


@pytest.mark.parametrize("said", GARBAGE.values(), ids=GARBAGE)
def test_garbage_ends_the_conversation_with_a_word(head: Head, said: bytes) -> None:
    assert error_of(inside(head, "ana", said))["kind"] in ("head", "usage")


def test_garbage_from_the_first_byte_on_is_answered_too(head: Head) -> None:
    for said in (GARBAGE["no frames"], GARBAGE["no line end"], run_frame("status")):
        done = head.ssh("ana", "distribute gateway", stdin=said)
        assert error_of(answers(done.stdout))["kind"] == "head"


def test_a_signal_that_is_none_and_a_question_that_is_none_end_it_too(head: Head) -> None:
    for said in (encode("signal", name="KILL"), encode("signal", name=9), encode("size", columns=-1, rows=1)):
        assert error_of(head.talk("ana", run_frame("status", "--watch"), said))["kind"] == "head"


@contextmanager
def taken(head: Head, user: str) -> Iterator[None]:
    """All conversations somebody may have are under way."""
    with ExitStack() as stack:
        for number in range(AT_ONCE):
            file = stack.enter_context((head.site.state / "gateways" / f"{user}.{number}").open("w"))
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def test_one_person_cannot_fill_the_head_with_conversations(head: Head) -> None:
    with taken(head, "bob"):
        assert error_of(head.run("bob", "status"))["kind"] == "limit"
        assert output(head.run("ana", "status", "-q")) == "ns/hers\n"


def test_a_head_whose_disk_is_full_says_so_and_is_no_bug(head: Head, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Incoming, "begin", full)
    error = error_of(inside(head, "ana", put(b"data"), does="upload"))
    assert (error["kind"], "No space left" in error["message"]) == ("store", True)


# --- what is allowed, and who did it ---


def test_an_administrator_and_the_key_of_a_workstation_may_do_what_is_theirs(attacked: Head) -> None:
    assert output(attacked.run("eva", "hold", "ns/hers")) == "1 job held\n"
    rows = json.loads(output(attacked.run("bob", "--json", "history", "ns/hers")))["history"]
    assert [row["who"] for row in rows if row["to"] == "held"] == ["ana", "eva"]
    assert output(attacked.run("lab", "pause", "--for=1h")).startswith("here paused")
    assert json.loads(output(attacked.run("ana", "--json", "nodes")))["nodes"][0]["state"] == "paused"
    assert output(attacked.run("lab", "resume", "here")) == "here goes on\n"
    assert output(attacked.run("eva", "nodes", "drain", "other")) == "other drained\n"
    assert "say which node" in error_of(attacked.run("eva", "pause"))["message"]  # it would be the head itself
