"""A machine crashes, is restarted, or is cut off for one, five or twenty minutes, whatever its job is just doing.

The times are to scale: a line is given up after two seconds, a machine after `lost_after`. The first of the cuts ends
before either, the second in between, the third after both.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable

import pytest

from tests.lab.site import LabSite

MakeSite = Callable[..., LabSite]
SIZE = 48 << 20  # bytes that the job saves: long enough on their way to be interrupted
BUILD = "note('build ' + NODE)\ngate('build ' + NODE)\n"
# Outside its folder it notes that it ran, and what it saves names the attempt.
RUN = f"""\
TOKEN = os.environ["DISTRIBUTE_ATTEMPT"]
note(" ".join(["begin", TOKEN, NODE]))
gate("run " + NODE)
save("whose", TOKEN.encode())
save("big", os.urandom({SIZE}) if NODE == "node1" else b"")
note(" ".join(["end", TOKEN, NODE]))
"""


def to_build(site: LabSite) -> None:
    site.wait(lambda: site.notes("build"), "it is being built")


def to_run(site: LabSite) -> None:
    site.open("build node1")
    site.wait(lambda: site.notes("begin") and site.states() == {"job": "running"}, "it runs, and is known to")


def to_pause(site: LabSite) -> None:
    to_run(site)
    site.do("pause", "node1", "--for", "1h")
    assert site.states() == {"job": "paused"}


def to_archive(site: LabSite) -> None:
    to_run(site)
    site.machines.slow("node1", 20)
    site.open("run node1")
    site.hit(lambda: part_size(site) > SIZE // 8, "some of it has come")
    assert part_size(site) < SIZE, "the line is not slow enough to prove anything"


def part_size(site: LabSite) -> int:
    """Bytes that have come of the big file, be it on its way or in its place."""
    for path in (*site.results().glob(".part-*/big"), site.results("job") / "big"):
        try:
            return path.stat().st_size
        except FileNotFoundError:
            continue
    return 0


PHASES = {"build": to_build, "run": to_run, "pause": to_pause, "archive": to_archive}


def crash(site: LabSite) -> None:
    site.machines.crash("node1")
    wait_for_the_other(site)
    site.machines.start("node1")


def reboot(site: LabSite) -> None:
    site.machines.reboot("node1")


def one_minute(site: LabSite) -> None:
    site.machines.cut("node1")
    time.sleep(0.5)
    site.machines.mend("node1")


def five_minutes(site: LabSite) -> None:
    site.machines.cut("node1")
    site.wait(lambda: site.is_unreachable("node1"), "the line is given up")
    site.machines.mend("node1")


def twenty_minutes(site: LabSite) -> None:
    site.machines.cut("node1")
    wait_for_the_other(site)
    site.machines.mend("node1")


def wait_for_the_other(site: LabSite) -> None:
    site.machines.start("node2")
    site.open("build node2")
    site.wait(lambda: began(site, "node2"), "the other machine has a try")


def began(site: LabSite, node: str) -> list[str]:
    """The attempts that noted on a machine that they began."""
    return [line.split()[0] for line in site.notes("begin") if line.endswith(node)]


FAULTS = {
    "crash": crash,
    "reboot": reboot,
    "cut of a minute": one_minute,
    "cut of five minutes": five_minutes,
    "cut of twenty minutes": twenty_minutes,
}
GIVEN_UP = ("crash", "cut of twenty minutes")


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("fault", FAULTS)
def test_nothing_is_lost_and_nothing_comes_twice(site: MakeSite, fault: str, phase: str) -> None:
    here = site(2)
    here.write_inventory(lost_after="3s" if fault in GIVEN_UP else "1h")
    here.machines.crash("node2")  # so that the first try is on the other one
    command = here.start("run", here.batch(["job"], build=BUILD, run=RUN))
    PHASES[phase](here)
    FAULTS[fault](here)
    here.machines.slow("node1", 0)
    here.open("build node1")
    again = fault == "reboot" and phase in ("run", "pause")
    if fault in GIVEN_UP:
        # The stale attempt is stopped and dropped while the other one still runs.
        here.wait(lambda: here.is_connected("node1"), "it is back")
        here.wait(lambda: here.nothing_runs_on("node1"), "what was given up is stopped there")
    elif again:
        here.wait(lambda: len(began(here, "node1")) == 2, "it is tried again")
    if phase == "pause" and fault != "reboot":
        here.do("resume", "node1")
    here.open("run node1", "run node2")
    assert command.end() == 0, command.said()

    tokens = began(here, "node1") + began(here, "node2")
    assert len(tokens) == len(set(tokens)), "no attempt ran twice"
    expected = (phase != "build") + 1 if fault in GIVEN_UP else 1 + again
    assert len(tokens) == expected
    assert len(here.notes("build node1")) == (2 if fault == "reboot" and phase == "build" else 1)
    record = here.record("job")
    assert record["attempt_id"] == tokens[-1] == (here.results("job") / "whose").read_text()
    assert [line.split()[0] for line in here.notes("end")][-1] == tokens[-1]
    assert {path.name for path in here.results().iterdir() if path.is_dir()} == {"job"}
    assert not here.half_written()
    here.wait(lambda: not here.remains(), "nothing is left on any machine")


def test_nothing_is_left_of_an_attempt_that_was_wiped_before_that_was_written_down(site: MakeSite) -> None:
    here = site(1)
    path = here.batch(["job"], build="", run=RUN)
    first = here.start("run", path)
    to_run(here)
    first.kill()
    here.machines.crash("node1")
    (attempt,) = (here.room("node1") / "attempts").glob(f"*{began(here, 'node1')[0]}")
    shutil.rmtree(attempt)
    with here.database() as queue:
        queue.execute("UPDATE attempts SET state = 'stale'")
        queue.execute("UPDATE jobs SET state = 'queued'")
    here.machines.start("node1")
    here.open("run node1")
    here.do("run", path)
    assert here.record("job")["attempt"] == 2
    assert not here.remains()
