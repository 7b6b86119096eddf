"""A batch on machines that are really separate: one is cut off for a while, one is restarted, nothing is lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from tests.lab.lab import CHECKOUT, Lab
from tests.lab.machine import Machine
from tests.support.wait import wait_for

JOBS = [f"job{number:02d}" for number in range(12)]
LIMIT = 60.0

BUILD = "print('nothing to build')\n"
# Both notes are written outside the job's folder, in one write each: a second start would be seen.
RUN = """\
import os, sys, time

home, job = os.path.expanduser("~"), os.environ["DISTRIBUTE_JOB_NAME"]

def note(word):
    fd = os.open(home + "/notes", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, f"{word} {job}\\n".encode())
    os.close(fd)

note("begin")
for _ in range(6000):  # the limit is for tests that die
    if os.path.exists(home + "/gate"):
        break
    time.sleep(0.01)
else:
    sys.exit("nobody opened the gate")
with open("distribute_save/result", "w") as file:
    file.write(job * 1000)
print("hello from", job)
note("end")
"""


class Head:
    """A head with a queue and storage of its own, and one command that runs."""

    def __init__(self, folder: Path, lab: Lab) -> None:
        self.storage = folder / "storage"
        self.said = folder / "said"
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "PYTHONPATH": str(CHECKOUT),
            "DISTRIBUTE_HOME": str(folder / "state"),
            "DISTRIBUTE_INVENTORY": str(folder / "inventory.yaml"),
        }
        self.storage.mkdir()
        (folder / "inventory.yaml").write_text(lab.inventory(self.storage))
        (folder / "build.py").write_text(BUILD)
        (folder / "run.py").write_text(RUN)
        document = {
            "meta": {"batch_name": "b", "namespace": "ns", "capabilities": ["python3"]},
            "python": {
                "initialize": {"build_file": "build.py", "required_files": []},
                "jobs": [{"name": job, "file": "run.py"} for job in JOBS],
            },
        }
        self.jobs = folder / "jobs.yaml"
        self.jobs.write_text(json.dumps(document))

    @contextmanager
    def run(self) -> Iterator[subprocess.Popen[bytes]]:
        """`distribute run`; killed if it has not ended."""
        argv = [sys.executable, "-m", "distribute_ssh", "run", str(self.jobs)]
        with self.said.open("wb") as said:
            process = subprocess.Popen(argv, env=self.env, stdin=subprocess.DEVNULL, stdout=said, stderr=said)
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def sees(self, node: str) -> str:
        """The state of a node, as `distribute nodes` shows it."""
        argv = [sys.executable, "-m", "distribute_ssh", "nodes", "--json"]
        shown = subprocess.run(argv, check=True, env=self.env, capture_output=True, timeout=LIMIT).stdout
        return {str(each["name"]): str(each["state"]) for each in json.loads(shown)["nodes"]}[node]

    def record(self, job: str) -> dict[str, Any]:
        """What the job.json of a job says."""
        found: dict[str, Any] = json.loads((self.storage / "ns" / "b" / job / "job.json").read_bytes())
        return found


def notes(lab: Lab, node: str, word: str) -> list[str]:
    """The jobs that noted this word on a node, in order."""
    lines = lab.exec(node, ["sh", "-c", "cat ~/notes 2>/dev/null || :"], "distribute").stdout.splitlines()
    return [line.removeprefix(word).strip() for line in lines if line.startswith(word)]


def runs_nothing(machine: Machine) -> bool:
    """Whether the service user has no process there: neither jobs nor what served them."""
    return not machine.exec(["ps", "-u", "distribute", "-o", "args="], check=False).stdout


def test_one_machine_cut_and_one_restarted_in_the_middle_and_every_result_comes_once(
    lab: Callable[..., Lab], tmp_path: Path
) -> None:
    made = lab(3, ssh=["ServerAliveInterval 1"])  # a silent machine is given up after three seconds, not 36
    head = Head(tmp_path, made)
    nodes = list(made.machines)
    with head.run() as command:

        def wait(condition: Callable[[], object], what: str) -> None:
            # A command that gave up, or a condition that never comes: what it said is what one wants to read.
            try:
                wait_for(lambda: condition() or command.poll() is not None, what, LIMIT)
                assert condition(), f"the command ended before: {what}"
            except AssertionError as error:
                raise AssertionError(f"{error}\n{head.said.read_text()}") from None

        wait(lambda: all(notes(made, node, "begin") for node in nodes), "each machine runs a job")
        made.cut("node1")
        (interrupted,) = notes(made, "node2", "begin")
        made.reboot("node2")
        for node in nodes:
            made.exec(node, ["touch", "/home/distribute/gate"])
        wait(lambda: head.sees("node1") == "unreachable", "the connection to it is given up")
        wait(lambda: len(notes(made, "node3", "end")) >= 4, "the others go on meanwhile")
        assert len(notes(made, "node1", "end")) == 1, "its job ended, and nobody could be told"
        made.mend("node1")
        wait(lambda: command.poll() is not None, "the batch ends")
        assert command.returncode == 0, head.said.read_text()

    begun = sorted(job for node in nodes for job in notes(made, node, "begin"))
    assert begun == sorted([*JOBS, interrupted]), "the restarted machine's job began twice, no other did"
    assert sorted(job for node in nodes for job in notes(made, node, "end")) == JOBS
    results = head.storage / "ns" / "b"
    for job in JOBS:
        record = head.record(job)
        assert (record["state"], record["exit_code"], record["attempt"]) == ("done", 0, 1 + (job == interrupted))
        assert (results / job / "result").read_text() == job * 1000
        assert (results / job / f"{job}_output.txt").read_text().count(f"hello from {job}\n") == 1
    assert json.loads((results / "batch.json").read_bytes())["counts"] == {"done": len(JOBS)}
    assert {path.name for path in results.iterdir() if path.is_dir()} == set(JOBS)
    for machine in made.machines.values():
        left = machine.exec(["sh", "-c", "ls -A /var/tmp/distribute-*/attempts /var/tmp/distribute-*/batches"])
        assert [line for line in left.stdout.splitlines() if line and not line.endswith(":")] == []
        wait_for(partial(runs_nothing, machine), f"nothing of ours runs on {machine.name}")
