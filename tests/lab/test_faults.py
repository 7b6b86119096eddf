"""Two hundred faults at random, in a batch of sixty jobs on five machines; then every promise is held against what is.

`DISTRIBUTE_SEEDS="7 8 9"` plays other ones. The seed decides what happens in which order, not in which moment.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable

import pytest

from distribute_ssh.model.job import OUTCOMES, TRANSITIONS, State
from tests.endtoend.site import Command
from tests.lab.site import LabSite

SEEDS = os.environ.get("DISTRIBUTE_SEEDS", "1 2").split()
FAULTS = 200
JOBS = [f"job{number:02d}" for number in range(60)]
# Some are tried twice when they fail; some wait for the very machine they were lost with.
OPTIONS: list[dict[str, object]] = [{}, {"max_attempts": 2}, {}, {"on_node_loss": "wait"}, {}]
PARTS = {"part0": 1, "part1": 1000, "part2": 40_000}  # how often each says whose it is: a word, some KB, a megabyte
AT_ONCE = 3  # commands of people; each is a Python of its own

# Who begins, and who comes to the end, says so outside of all folders of ours: a second start would be seen, even if
# nothing of it ever arrived. What is saved names the attempt in every file.
RUN = f"""\
PARTS = {PARTS}
TOKEN = os.environ["DISTRIBUTE_ATTEMPT"]
note(" ".join(["begin", JOB, TOKEN, NODE]))
time.sleep(0.3 + sum(JOB.encode()) % 7 * 0.4)
try:
    for part in PARTS:
        save(part, TOKEN.encode() * PARTS[part])
    print("end of", TOKEN, flush=True)
except OSError as error:  # the disk was filled
    note(" ".join(["full", JOB, TOKEN]))
    sys.exit(str(error))
note(" ".join(["end", JOB, TOKEN]))
"""


class Faults:
    """What can go wrong on a site, and what is broken just now."""

    def __init__(self, site: LabSite, dice: random.Random, begin: Callable[[], Command]) -> None:
        self.site = site
        self.lab = site.machines
        self.dice = dice
        self.begin = begin
        self.coordinator = begin()
        self.cut: list[str] = []
        self.crashed: list[str] = []
        self.full: list[str] = []
        self.killed: set[str] = set()  # jobs that somebody asked to be killed

    def happen(self) -> str:
        """One of them; says which."""
        kinds = {
            self.line: 6, self.slow: 2, self.power: 3, self.reset: 3, self.disk: 3, self.shell: 4,
            self.kill_coordinator: 2, self.pause: 2, self.resume: 1, self.kill: 1,
        }  # fmt: skip
        (what,) = self.dice.choices(list(kinds), list(kinds.values()))
        return f"{what.__name__}: {what()}"

    def line(self) -> str:
        return self.turn(self.cut, 2, self.lab.cut, self.lab.mend)

    def power(self) -> str:
        return self.turn(self.crashed, 1, self.lab.crash, self.lab.start)

    def disk(self) -> str:
        return self.turn(self.full, 1, self.lab.fill, self.lab.unfill)

    def turn(self, broken: list[str], most: int, breaks: Callable[[str], None], mends: Callable[[str], None]) -> str:
        """Break it on one more machine, or mend it on the one where that is longest ago."""
        if broken and (len(broken) == most or self.dice.random() < 0.5):
            mends(node := broken.pop(0))
            return f"mended on {node}"
        node = self.dice.choice([name for name in self.lab.machines if name not in broken])
        breaks(node)
        broken.append(node)
        return f"broken on {node}"

    def slow(self) -> str:
        node, milliseconds = self.dice.choice(list(self.lab.machines)), self.dice.choice((0, 5, 50))
        self.lab.slow(node, milliseconds)
        return f"{node} by {milliseconds} ms"

    def reset(self) -> str:
        node = self.dice.choice([name for name in self.lab.machines if name not in self.crashed])
        self.lab.reboot(node)
        return node

    def shell(self) -> str:
        """Somebody ends a process of ours: a wrapper, a resident, what kills or pauses."""
        node = self.dice.choice([name for name in self.lab.machines if name not in self.crashed])
        luck = self.dice.random()  # however many there are: what comes later shall not depend on that
        ours = [each for each in self.lab.machines[node].processes() if each.command[:1] in (("sh",), ("/bin/sh",))]
        if not ours:
            return f"none on {node}"
        one = ours[int(luck * len(ours))]
        with contextlib.suppress(ProcessLookupError):
            os.kill(one.pid, signal.SIGKILL)
        return f"{' '.join(one.command)} on {node}"

    def kill_coordinator(self) -> str:
        self.coordinator.kill()
        self.coordinator = self.begin()
        return "another one begins"

    def pause(self) -> str:
        return self.say("pause", self.dice.choice(list(self.lab.machines)), "--for", str(self.dice.randint(1, 4)))

    def resume(self) -> str:
        return self.say("resume", self.dice.choice(list(self.lab.machines)))

    def kill(self) -> str:
        job = self.dice.choice(JOBS)
        self.killed.add(job)
        return self.say("kill", "ns/b", job, "-y")

    def say(self, *words: str) -> str:
        """A person asks for something, and nobody waits until it is so."""
        if len([each for each in self.site.commands if each.is_running]) > AT_ONCE:
            return "nobody has the time"
        self.site.start(*words)
        return " ".join(words)

    def end(self) -> None:
        """Mend everything."""
        for command in self.site.commands:
            if command.is_running:
                command.kill()
        for node in self.crashed:
            self.lab.start(node)
        for node in self.lab.machines:
            self.lab.mend(node)
            self.lab.slow(node, 0)
            self.lab.unfill(node)


@pytest.mark.timeout(400)
@pytest.mark.parametrize("seed", SEEDS)
def test_after_two_hundred_faults_every_promise_is_kept(site: Callable[..., LabSite], seed: str) -> None:
    print(f"seed {seed}")
    here = site(5, slots=2)
    here.write_inventory(lost_after="3s")
    path = here.batch({job: OPTIONS[number % len(OPTIONS)] for number, job in enumerate(JOBS)}, run=RUN)
    here.do("add", path)
    dice = random.Random(seed)
    faults = Faults(here, dice, lambda: here.start("run", path))
    began, story = time.monotonic(), []
    for _ in range(FAULTS):
        time.sleep(dice.uniform(0.0, 0.2))  # they come when they come
        story.append(f"{time.monotonic() - began:7.3f} {faults.happen()}")
    print("\n".join(story))
    print(f"{time.monotonic() - began:.1f} s; then: {Counter(here.states().values())}")
    faults.end()
    shorten_pauses(here)

    last = here.start("run", path)
    here.wait(lambda: not last.is_running, "the batch ends", 120)
    print(f"{time.monotonic() - began:.1f} s; then: {Counter(here.states().values())}")
    check_jobs(here, faults.killed)
    check_queue(here)
    here.wait(lambda: not here.remains(), f"nothing is left: {here.remains()}")


def shorten_pauses(site: LabSite) -> None:
    """Whoever lost its machine five times waits for a minute before the next try: here nobody has the time."""
    with site.database() as queue:
        queue.execute("UPDATE jobs SET not_before = 0")


def check_jobs(site: LabSite, killed: set[str]) -> None:
    """Each job has one end, no attempt ran twice, and what lies in storage is what one attempt left, whole."""
    states = site.states()
    assert set(states) == set(JOBS)
    assert {state for state in states.values() if state not in OUTCOMES} == set(), states
    began = [line.split() for line in site.notes("begin")]
    ended = {token: job for job, token in map(str.split, site.notes("end"))}
    full = {token: job for job, token in map(str.split, site.notes("full"))}
    twice = {token: number for token, number in Counter(token for _, token, _ in began).items() if number > 1}
    assert twice == {}
    of_job = {token: job for job, token, _ in began}
    assert not site.half_written()
    published = Counter(site.record(path.name)["attempt_id"] for path in site.results().iterdir() if path.is_dir())
    assert set(published.values()) == {1}, "each attempt came once"
    for job, state in states.items():
        folder = site.results(job)
        if not folder.exists():
            assert state in (State.KILLED, State.LOST), f"{job} is {state}, and nothing is in storage"
            continue
        record = site.record(job)
        token = record["attempt_id"]
        assert record["state"] == state, job
        assert of_job.get(token, job) == job
        parts = {path.name: path.read_bytes() for path in folder.iterdir() if path.name.startswith("part")}
        if state == State.DONE:
            assert ended[token] == job
            assert parts == {part: token.encode() * times for part, times in PARTS.items()}
            assert (folder / f"{job}_output.txt").read_text() == f"end of {token}\n"
        elif state == State.FAILED:
            assert full[token] == job, f"{job} failed, though its disk was not full: {site.reason(job)}"
        else:
            assert state == State.LOST or job in killed
        for part in parts.values():
            assert (token.encode() * max(PARTS.values())).startswith(part), f"{job} is of more than one attempt"
    assert killed >= {job for job, state in states.items() if state == State.KILLED}


def check_queue(site: LabSite) -> None:
    """The queue is in order: its file, its states, and the story it tells of each job."""
    assert site.select("PRAGMA integrity_check") == [("ok",)]
    assert site.select("PRAGMA foreign_key_check") == []
    assert site.select("SELECT node, state, count(*) FROM attempts WHERE state <> 'wiped' GROUP BY 1, 2") == []
    assert site.select("SELECT node, state FROM builds WHERE state <> 'wiped'") == []
    assert site.select("SELECT name FROM jobs WHERE request IS NOT NULL") == []
    told: dict[str, list[tuple[str, str]]] = {job: [] for job in JOBS}
    for job, frm, to in site.select('SELECT job, "from", "to" FROM history WHERE job IS NOT NULL ORDER BY rowid'):
        if to is not None:
            told[job].append((frm, to))
    for job, steps in told.items():
        for frm, to in steps[1:]:
            assert State(to) in TRANSITIONS[State(frm)], f"{job}: {frm} -> {to}"
        assert [to for _, to in steps[:-1]] == [frm for frm, _ in steps[1:]], f"{job}: {steps}"
        assert [to for _, to in steps if to in OUTCOMES] == [site.states()[job]], f"{job} has one end: {steps}"
