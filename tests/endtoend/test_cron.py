"""`* * * * * distribute runner --once`: minute after minute in what cron gives a command, which is next to nothing."""

from __future__ import annotations

import contextlib
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.endtoend.site import CHECKOUT, LIMIT, Site
from tests.support.sshd import host_block

pytestmark = pytest.mark.sshd

RUN = "note('begin ' + JOB)\ngate(JOB)\nnote('end ' + JOB)\nsave('result', b'')\n"


class Crontab:
    """One line of a crontab, and the person whose it is: all is found below their home."""

    def __init__(self, site: Site) -> None:
        self.home = site.folder / "home"
        for place, name, there in (
            (".config/distribute", "inventory.yaml", site.folder / "inventory.yaml"),
            (".local/state", "distribute", site.state),
        ):
            (self.home / place).mkdir(parents=True, exist_ok=True)
            (self.home / place / name).symlink_to(there)
        site.state.mkdir(mode=0o700, exist_ok=True)
        self.line = f"cd {shlex.quote(str(CHECKOUT))} && {shlex.quote(sys.executable)} -m distribute_ssh runner --once"

    def minute(self) -> None:
        """Do what cron does every minute: it exits with 0, and says nothing, which cron would mail."""
        ended = subprocess.run(
            ["/bin/sh", "-c", self.line],
            env={"HOME": str(self.home), "LOGNAME": "tester", "PATH": "/usr/bin:/bin", "SHELL": "/bin/sh"},
            cwd=self.home, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            start_new_session=True, timeout=LIMIT, check=False,
        )  # fmt: skip
        assert (ended.returncode, ended.stdout.decode()) == (0, "")
        assert self.left() == []

    def left(self) -> list[str]:
        """Processes of its passes that are there now, but for the jobs they started."""
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                told = (entry / "environ").read_bytes().split(b"\0") if entry.name.isdigit() else []
                names = {each.partition(b"=")[0] for each in told}
                # What the test itself starts has a PYTHONPATH, jobs have their attempt.
                if f"HOME={self.home}".encode() in told and not names & {b"PYTHONPATH", b"DISTRIBUTE_ATTEMPT"}:
                    found.append((entry / "cmdline").read_text().replace("\0", " "))
        return found


def without_agent(site: Site, name: str, identity: Path | None) -> Path:
    """A node that lets in by the lab's key alone, which only the inventory may name; returns our folder there."""
    given = {} if identity is None else {"identity": str(identity)}
    node = site.node(name, **given)
    site.lab.block(name, host_block(name, node.sshd.port, site.folder / "no-key", site.lab.known_hosts))
    return node.room


def test_passes_under_cron_bring_a_batch_to_its_end_and_leave_no_process_behind(site: Site) -> None:
    room = without_agent(site, "lab1", site.lab.key)
    cron = Crontab(site)
    site.do("add", site.batch(["one", "two"], run=RUN))
    site.open("one", "two")
    for _ in range(30):
        cron.minute()
        if set(site.states().values()) == {"done"}:
            break
    assert set(site.states().values()) == {"done"}, site.report()
    assert (site.notes("begin"), site.notes("end")) == (["one", "two"], ["one", "two"])
    cron.minute()
    site.assert_clean(room)
    assert cron.left() == []


def test_beside_a_runner_that_is_killed_and_started_passes_disturb_nothing(site: Site) -> None:
    room = without_agent(site, "lab1", site.lab.key)
    cron = Crontab(site)
    jobs = ["one", "two", "three"]
    site.do("add", site.batch(jobs, run=RUN))
    for job in jobs:
        runner = site.start("runner")
        site.wait(lambda job=job: job in site.notes("begin"), f"{job} runs")
        cron.minute()
        runner.kill()
        site.open(job)
        cron.minute()
    for _ in range(30):
        cron.minute()
        if set(site.states().values()) == {"done"}:
            break
    assert set(site.states().values()) == {"done"}, site.report()
    assert (site.notes("begin"), site.notes("end")) == (jobs, jobs), "each ran once"
    cron.minute()
    site.assert_clean(room)


def test_where_the_key_is_in_an_agent_only_it_is_said_what_cron_lacks(site: Site) -> None:
    without_agent(site, "lab1", None)
    cron = Crontab(site)
    site.do("add", site.batch(["one"], run=RUN))
    cron.minute()
    (node,) = site.data("nodes")["nodes"]
    assert node["state"] == "unreachable"
    assert "no ssh agent here" in node["reason"]
    assert "`identity:` in the inventory" in site.do("nodes", "doctor", "lab1", code=6).answered()
