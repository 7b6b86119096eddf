"""A campus: a laptop, a head and three workstations as machines of a lab, and people who reach the head over ssh.

Nothing stands between them but real sshd, and on the head the forced command that `distribute users add` wrote.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

from tests.endtoend import site
from tests.lab.disk import SERVICE
from tests.lab.installed import PROGRAM, install
from tests.lab.lab import Lab
from tests.lab.machine import Machine
from tests.support.wait import wait_for

LAPTOP, HEAD, WORKSTATIONS = "node1", "node2", ("node3", "node4", "node5")
PEOPLE = {"ana": (), "bob": (), "eva": ("--admin",)}
LIMIT = 60.0

SCRIPT = """\
import os, sys, time
WINDOW, JOB = {window!r}, os.environ["DISTRIBUTE_JOB_NAME"]
fd = os.open(WINDOW + "/notes", os.O_WRONLY | os.O_APPEND)
os.write(fd, (JOB + "\\n").encode())  # in one write: a second start would be seen
for _ in range(6000):  # the limit is for tests that die
    if os.path.exists(WINDOW + "/gate"):
        break
    time.sleep(0.01)
else:
    sys.exit("nobody opened the gate")
with open("distribute_save/result", "w") as file:
    file.write(JOB * 1000)
print("hello from", JOB)
"""


class Command(site.Command):
    """A command of ours under way on a machine."""

    def answer(self) -> dict[str, Any]:
        """What it printed with --json."""
        found: dict[str, Any] = json.loads(self.answered())
        return found


class Campus:
    """`lab` has the five machines, with an account for each of the people on the laptop."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self.lab = lab
        self.folder = folder
        self.laptop, self.head = lab.machines[LAPTOP], lab.machines[HEAD]
        self.commands: list[Command] = []
        (lab.window / "notes").touch()
        (lab.window / "notes").chmod(0o666)
        install(self.laptop)
        install(self.head)
        self._head()
        for name, options in PEOPLE.items():
            self._person(name, *options)

    # --- how they were set up, once ---

    def _head(self) -> None:
        """The service account gets a key for the workstations, their host keys, an inventory and storage."""
        access = self.lab.access
        hosts = "".join(f"Host {each}\n    IdentityFile ~/.ssh/id_lab\n" for each in WORKSTATIONS)
        self._write(self.head, SERVICE, ".ssh/id_lab", access.key.read_text())
        self._write(self.head, SERVICE, ".ssh/known_hosts", access.known_hosts.read_text())
        self._write(self.head, SERVICE, ".ssh/config", hosts)
        document = {
            "storage": "/home/distribute/storage",
            "defaults": {"scratch": "/var/tmp", "slots": 2},
            "nodes": list(WORKSTATIONS),
        }
        self._write(self.head, SERVICE, ".config/distribute/inventory.yaml", json.dumps(document))
        self.head.exec(["mkdir", "/home/distribute/storage"], SERVICE)

    def _person(self, name: str, *options: str) -> None:
        """They make a key, send its public half to the administrator, and once compare the head's fingerprint."""
        self.laptop.exec(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", f"/home/{name}/.ssh/id_ed25519"], name)
        public = self.laptop.exec(["cat", f"/home/{name}/.ssh/id_ed25519.pub"], name).stdout
        self._write(self.head, SERVICE, f"{name}.pub", public)
        self.on_head("users", "add", name, f"/home/distribute/{name}.pub", *options)
        # A line that is silent is given up after two seconds, not after 48: tests have less patience than people.
        impatient = "Host *\n    ServerAliveInterval 1\n    ServerAliveCountMax 1\n"
        self._write(self.laptop, name, ".ssh/config", impatient)
        self._write(self.laptop, name, ".ssh/known_hosts", self.lab.access.known_hosts.read_text())
        self._write(self.laptop, name, ".config/distribute/config.yaml", f"head: {SERVICE}@{HEAD}\n")

    def _write(self, machine: Machine, user: str, path: str, text: str) -> None:
        script = 'umask 077; cd; mkdir -p "$(dirname "$0")"; cat > "$0"'
        machine.exec(["sh", "-c", script, path], user, text=text)

    # --- what people do ---

    def batch(self, person: str, name: str, jobs: list[str]) -> str:
        """Write a jobs file on the laptop; its path there."""
        document = {
            "meta": {"batch_name": name, "namespace": person, "capabilities": []},
            "python": {
                "initialize": {"build_file": "build.py", "required_files": []},
                "jobs": [{"name": job, "file": "run.py"} for job in jobs],
            },
        }
        self._write(self.laptop, person, f"{name}/build.py", "")
        self._write(self.laptop, person, f"{name}/run.py", SCRIPT.format(window=str(self.lab.window)))
        self._write(self.laptop, person, f"{name}/jobs.yaml", json.dumps(document))
        return f"/home/{person}/{name}/jobs.yaml"

    def start(self, person: str, *arguments: str) -> Command:
        """Have somebody at the laptop run a command of ours, with JSON as its answer."""
        return self._start(self.laptop, person, *arguments, "--json")

    def do(self, person: str, *arguments: str, code: int = 0) -> dict[str, Any]:
        """Have them run it to its end, which is to be with this exit code; its answer."""
        command = self.start(person, *arguments)
        ended = command.end()
        assert ended == code, f"{person}: {arguments}: exit {ended}\n{command.said()}\n{self.report()}"
        return command.answer()

    def on_head(self, *arguments: str) -> str:
        """What a command of ours prints that the administrator runs on the head itself."""
        return self.head.exec([PROGRAM, *arguments], SERVICE).stdout

    def start_on_head(self, *arguments: str) -> Command:
        """Start one there."""
        return self._start(self.head, SERVICE, *arguments)

    def _start(self, machine: Machine, user: str, *arguments: str) -> Command:
        number = len(self.commands)
        out, err = self.folder / f"{number}.out", self.folder / f"{number}.err"
        argv = machine.command(["sh", "-c", 'cd && exec "$0" "$@"', PROGRAM, *arguments], user)
        with out.open("wb") as to, err.open("wb") as errors:
            process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=to, stderr=errors)
        self.commands.append(command := Command(process, out, err))
        return command

    # --- what is ---

    def counts(self, batch: str) -> dict[str, int]:
        """How many jobs of a batch are in which state, as the head itself has it."""
        found: dict[str, int] = json.loads(self.on_head("status", batch, "--json"))["batches"][0]["counts"]
        return found

    def notes(self) -> list[str]:
        """The jobs that began, in order."""
        return (self.lab.window / "notes").read_text().split()

    def open_gate(self) -> None:
        """Let all jobs go on to their end."""
        (self.lab.window / "gate").touch()

    def file(self, person: str, path: str) -> str:
        """What a file in their home on the laptop holds."""
        return self.laptop.exec(["cat", f"/home/{person}/{path}"], person).stdout

    def wait(self, condition: Any, what: str) -> None:
        """Wait for a condition; where it does not come true, say all that is known."""
        try:
            wait_for(condition, what, LIMIT)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.report()}") from None

    def kill(self, machine: Machine, word: str, *, but: str) -> None:
        """`kill -9` the processes of ours that have one word in their command line and not another."""
        for each in machine.processes():
            if "distribute_ssh" in each.command and word in each.command and but not in each.command:
                with contextlib.suppress(ProcessLookupError):  # it has just ended
                    os.kill(each.pid, signal.SIGKILL)

    def report(self) -> str:
        """What everybody was told."""
        return "\n".join(f"{each.process.args!r}: {said}" for each in self.commands if (said := each.said()))

    def close(self) -> None:
        """End all that is left, and see that no command ever lost its countenance."""
        for command in self.commands:
            command.process.kill()  # what it started ends with the machine
            command.process.wait()
        for command in self.commands:
            assert "Traceback" not in command.said(), command.said()
            assert "is a bug" not in command.said(), command.said()
