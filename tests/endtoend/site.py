"""A site: one head with its queue and storage, some nodes, and the real command in processes of its own."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.lab import Lab, LabNode
from tests.support.wait import wait_for

CHECKOUT = Path(__file__).parents[2]
LIMIT = 60.0  # seconds for a batch of these tests to end, on a machine that does something else as well

SCRIPT = """\
import os, signal, subprocess, sys, time
SITE = os.environ["SITE"]
SAVE = "distribute_save"
NODE = os.environ["DISTRIBUTE_NODE"]
JOB = os.environ.get("DISTRIBUTE_JOB_NAME", "build")

def note(text):
    # One write to a file opened for appending: whole lines, whoever else writes.
    fd = os.open(SITE + "/notes", os.O_WRONLY | os.O_APPEND)
    os.write(fd, (text + "\\n").encode())
    os.close(fd)

def gate(name):
    # Wait until the test opens it. The limit is for tests that die.
    for _ in range(6000):
        if os.path.exists(SITE + "/gates/" + name):
            return
        time.sleep(0.01)
    sys.exit("nobody opened " + name)

def save(name, data):
    with open(os.path.join(SAVE, name), "wb") as file:
        file.write(data)

"""
"""Stands before every build and job script of these tests."""

BUILD = "note('build ' + NODE)\n"
JOB = "note('run ' + JOB)\nsave('result', JOB.encode())\nprint('hello from', JOB)\n"


@dataclass
class Command:
    """A command of ours under way."""

    process: subprocess.Popen[bytes]
    out: Path
    err: Path

    @property
    def pid(self) -> int:
        """Its process number."""
        return self.process.pid

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self.process.poll() is None

    def kill(self) -> None:
        """`kill -9`: it has no chance to tidy up."""
        self.process.kill()
        self.process.wait()

    def end(self, limit: float = LIMIT) -> int:
        """Wait for its end; the exit code."""
        try:
            return self.process.wait(limit)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.process.args!r} did not end within {limit:.0f} s\n{self.said()}") from None

    def interrupt(self, number: int = signal.SIGTERM) -> int:
        """Ask it to stop; the exit code."""
        self.process.send_signal(number)
        return self.end()

    def said(self) -> str:
        """What it printed for people."""
        return self.err.read_text(errors="replace")

    def answered(self) -> str:
        """What it printed as data."""
        return self.out.read_text(errors="replace")


@dataclass
class Site:
    """Everything lies below `folder`; commands find nothing of this machine's user.

    `public`: a folder that jobs of every account can reach; there they note what they do, and wait at gates.
    """

    folder: Path
    lab: Lab
    public: Path
    env: dict[str, str] = field(default_factory=dict)
    commands: list[Command] = field(default_factory=list)
    entries: dict[str, dict[str, Any]] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for each in ("home", "storage", "batches", "commands"):
            (self.folder / each).mkdir(parents=True)
        (self.public / "gates").mkdir()
        (self.public / "notes").touch()
        for each in (self.public, self.public / "gates", self.public / "notes"):
            each.chmod(0o777)
        self.settings = {"storage": str(self.storage), "ssh_config": str(self.lab.ssh_config)}
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder / "home"),
            "USER": "tester",
            "PYTHONPATH": str(CHECKOUT),
            "PYTHONDONTWRITEBYTECODE": "1",
            "DISTRIBUTE_HOME": str(self.state),
            "DISTRIBUTE_INVENTORY": str(self.folder / "inventory.yaml"),
        }

    # --- places ---

    @property
    def state(self) -> Path:
        """The head's state folder."""
        return self.folder / "state"

    @property
    def storage(self) -> Path:
        """Where results lie."""
        return self.folder / "storage"

    # --- nodes ---

    def node(self, name: str, *config: str, within: Sequence[str] = (), known: bool = True, **settings: Any) -> LabNode:
        """Start a node over ssh and put it into the inventory; for the rest see `Lab.add`."""
        node = self.lab.add(name, config, within=within, known=known)
        self.enter(name, scratch=str(node.scratch), **settings)
        return node

    def local(self, name: str = "here", **settings: Any) -> Path:
        """Put this machine into the inventory; returns our folder on it."""
        scratch = self.folder / f"{name}-scratch"
        scratch.mkdir(exist_ok=True)
        self.enter(name, connection="local", scratch=str(scratch), **settings)
        return scratch / f"distribute-{os.getuid()}"

    def enter(self, name: str, **settings: Any) -> None:
        """Put a node into the inventory."""
        # Start-up files of whoever runs the tests may set a PATH with anything in it.
        env = {"SITE": str(self.public), "PATH": "/usr/local/bin:/usr/bin:/bin", **settings.pop("env", {})}
        self.entries[name] = {"name": name, "env": env, **settings}
        self.write_inventory()

    def write_inventory(self, **settings: Any) -> None:
        """Write it anew, with other settings for the whole file."""
        self.settings |= settings
        text = json.dumps({**self.settings, "nodes": list(self.entries.values())})
        (self.folder / "inventory.yaml").write_text(text)

    # --- batches ---

    def batch(
        self,
        jobs: Mapping[str, str | Mapping[str, Any]] | Sequence[str],
        *,
        name: str = "b",
        build: str = BUILD,
        run: str = JOB,
        init: Sequence[Any] = (),
        meta: Mapping[str, Any] | None = None,
    ) -> Path:
        """Write a jobs file; returns its path. `jobs`: names, or by name a script of its own or a whole entry."""
        folder = self.folder / "batches" / name
        folder.mkdir(exist_ok=True)
        (folder / "build.py").write_text(SCRIPT + build)
        (folder / "run.py").write_text(SCRIPT + run)
        entries = []
        for number, job in enumerate(jobs):
            given = jobs[job] if isinstance(jobs, Mapping) else {}
            entry: dict[str, Any] = {"name": job, "file": "run.py"}
            if isinstance(given, str):
                (folder / f"run-{number}.py").write_text(SCRIPT + given)
                entry["file"] = f"run-{number}.py"
            else:
                entry |= given
            entries.append(entry)
        document = {
            "meta": {"batch_name": name, "namespace": "ns", "capabilities": [], **(meta or {})},
            "python": {"initialize": {"build_file": "build.py", "required_files": list(init)}, "jobs": entries},
        }
        path = folder / "jobs.yaml"
        path.write_text(json.dumps(document))
        return path

    # --- commands ---

    def start(self, *arguments: str | Path) -> Command:
        """Start a command of ours."""
        place = self.folder / "commands" / f"{len(self.commands):03d}"
        out, err = place.with_suffix(".out"), place.with_suffix(".err")
        with out.open("wb") as stdout, err.open("wb") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-m", "distribute_ssh", *map(str, arguments)],
                env=self.env, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr,
            )  # fmt: skip
        self.commands.append(command := Command(process, out, err))
        return command

    def do(self, *arguments: str | Path, code: int = 0, limit: float = LIMIT) -> Command:
        """Run a command of ours to its end, which is to be with this exit code."""
        command = self.start(*arguments)
        ended = command.end(limit)
        assert ended == code, f"exit {ended} in place of {code}:\n{command.answered()}\n{command.said()}"
        return command

    def data(self, *arguments: str | Path, code: int = 0) -> dict[str, Any]:
        """What a command says with --json."""
        answer: dict[str, Any] = json.loads(self.do(*arguments, "--json", code=code).answered())
        return answer

    # --- what is, without asking the command ---

    def select(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """Ask the queue's database; nothing where there is none yet."""
        path = self.state / "queue.db"
        if not path.exists():
            return []
        connection = sqlite3.connect(f"file:{path}?mode=rw", uri=True, timeout=5)
        try:
            return connection.execute(query, values).fetchall()
        except sqlite3.OperationalError:
            return []  # its tables are being made
        finally:
            connection.close()

    def states(self, batch: str = "b") -> dict[str, str]:
        """The state of every job of a batch."""
        query = "SELECT j.name, j.state FROM jobs j JOIN batches b ON b.id = j.batch_id WHERE b.batch = ?"
        return dict(self.select(query, batch))

    def reason(self, job: str, batch: str = "b") -> str:
        """What the queue says about a job."""
        query = "SELECT j.reason FROM jobs j JOIN batches b ON b.id = j.batch_id WHERE b.batch = ? AND j.name = ?"
        ((reason,),) = self.select(query, batch, job)
        return reason or ""

    def wait(self, condition: Callable[[], object], what: str, limit: float = LIMIT) -> None:
        """Wait for a condition; when it does not come true, say all that is known."""
        try:
            wait_for(condition, what, limit)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.report()}") from None

    def hit(self, condition: Callable[[], object], what: str) -> None:
        """Wait for a condition with eyes that hardly ever close: some moments last for milliseconds."""
        end = time.monotonic() + LIMIT
        while not condition():
            assert time.monotonic() < end, f"never: {what}\n{self.report()}"
            time.sleep(0.002)

    def wait_state(self, job: str, *states: str, batch: str = "b") -> None:
        """Wait until a job is in one of these states."""
        self.wait(lambda: self.states(batch).get(job) in states, f"{job} is {' or '.join(states)}")

    def open(self, *gates: str) -> None:
        """Let jobs pass that wait at a gate."""
        for gate in gates:
            (self.public / "gates" / gate).touch()

    def notes(self, word: str = "") -> list[str]:
        """What builds and jobs noted outside their folders, in order; those that begin with `word`, without it."""
        lines = (self.public / "notes").read_text().splitlines()
        return [line.removeprefix(word).strip() for line in lines if line.startswith(word)]

    def results(self, job: str = "", batch: str = "b") -> Path:
        """Where the results of a job, or of a whole batch, lie."""
        return self.storage / "ns" / batch / job

    def record(self, job: str, batch: str = "b") -> dict[str, Any]:
        """The job.json of a job, after its promises were checked: every file is there, of that size and hash."""
        folder = self.results(job, batch)
        told: dict[str, Any] = json.loads((folder / "job.json").read_bytes())
        found = set()
        for path in _below(os.fsencode(folder)):
            name = os.path.relpath(path, os.fsencode(folder))
            if os.path.isfile(path) and not os.path.islink(path) and name != b"job.json":
                found.add(name)
        listed = {name_of(each): each for each in told["files"]}
        assert set(listed) == found
        for name, each in listed.items():
            with open(os.path.join(os.fsencode(folder), name), "rb") as file:
                data = file.read()
            assert (each["size"], each["sha256"]) == (len(data), hashlib.sha256(data).hexdigest()), name
        return told

    def half_written(self) -> list[str]:
        """What lies in storage that no reader should ever take for a result."""
        return [str(path) for path in self.storage.rglob(".*")]

    def processes(self) -> list[tuple[int, str]]:
        """Everything that builds and jobs of this site run now, wherever it went."""
        mark = f"SITE={self.public}".encode()
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and mark in (entry / "environ").read_bytes().split(b"\0"):
                    found.append((int(entry.name), (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()))
        return found

    def left(self, *rooms: Path) -> list[str]:
        """What is left of any batch in our folders on nodes, and as processes; inputs stay, to be used again."""
        files = [str(path) for room in rooms for each in ("attempts", "batches") for path in (room / each).iterdir()]
        return [*files, *(what for _, what in self.processes())]

    def assert_clean(self, *rooms: Path) -> None:
        """Nothing is left."""
        assert self.left(*rooms) == []

    def report(self) -> str:
        """All that helps to see why something did not happen."""
        lines = [f"{name}: {state}" for name, state in self.states().items()]
        lines += [f"history: {row}" for row in self.select('SELECT job, "from", "to", reason FROM history')]
        lines += [f"attempt: {row}" for row in self.select("SELECT job_id, number, node, state, exit FROM attempts")]
        lines += [f"build: {row}" for row in self.select("SELECT node, state, exit, reason FROM builds")]
        lines += [f"node: {row}" for row in self.select("SELECT name, unreachable_reason FROM nodes")]
        lines += [f"{each.process.args}: {each.said()}" for each in self.commands if each.said()]
        return "\n".join(lines)

    # --- the end ---

    def close(self) -> None:
        """End all that is left, and see that no command ever lost its countenance."""
        for command in self.commands:
            if command.is_running:
                command.kill()
        for pid, _ in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for command in self.commands:
            said = command.said()
            assert "Traceback" not in said, said
            assert "never retrieved" not in said, said
            assert "is a bug" not in said, said


def name_of(row: Mapping[str, str], key: str = "path") -> bytes:
    """A name in a job.json: text where it is UTF-8, else base64."""
    return row[key].encode() if key in row else base64.b64decode(row[f"{key}_b64"])


def _below(folder: bytes) -> Iterator[bytes]:
    for place, _, names in os.walk(folder):
        yield from (os.path.join(place, name) for name in names)
