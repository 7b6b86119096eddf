"""The units in docs/systemd: what they start does what docs/service.md says. systemd itself reads them where it is."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.endtoend.site import CHECKOUT, LIMIT, Site

FOLDER = CHECKOUT / "docs" / "systemd"
UNITS = {name: FOLDER / name / "distribute.service" for name in ("user", "system")}
RUN = "note('begin ' + JOB)\ngate(JOB)\nnote('end ' + JOB)\nsave('result', b'')\n"


class Unit:
    """A unit file, read as systemd does: `KEY=VALUE` under headings, a key may come again."""

    def __init__(self, text: str) -> None:
        lines = [line.strip() for line in text.splitlines()]
        pairs = [line.partition("=")[::2] for line in lines if line and line[0] not in "#;["]
        self.values = {key: [value for other, value in pairs if other == key] for key, _ in pairs}

    def one(self, key: str) -> str:
        (value,) = self.values[key]
        return value

    def environment(self) -> dict[str, str]:
        """What it adds to the environment."""
        words = [word for value in self.values.get("Environment", []) for word in shlex.split(value)]
        return dict(word.split("=", 1) for word in words)


def start(unit: Unit, site: Site) -> subprocess.Popen[bytes]:
    """Start what a unit starts, with what systemd gives it and our program in the place of the one that it names."""
    home = site.folder / "home"
    program, *arguments = shlex.split(unit.one("ExecStart").replace("%h", str(home)))
    assert Path(program).name == "distribute"
    own = {"HOME": str(home), "LOGNAME": "tester", "PATH": "/usr/local/bin:/usr/bin:/bin", "SHELL": "/bin/sh"}
    ours = {name: site.env[name] for name in ("DISTRIBUTE_HOME", "DISTRIBUTE_INVENTORY", "PYTHONPATH")}
    with (site.folder / "journal").open("ab") as journal:
        return subprocess.Popen(
            [sys.executable, "-m", "distribute_ssh", *arguments],
            env={**own, **ours, **unit.environment()}, cwd="/", stdin=subprocess.DEVNULL, stdout=journal,
            stderr=journal, start_new_session=True,
        )  # fmt: skip


@pytest.mark.parametrize("name", UNITS)
def test_what_a_unit_starts_moves_the_queue_and_ends_with_0_while_jobs_go_on(site: Site, name: str) -> None:
    unit = Unit(UNITS[name].read_text())
    room = site.local()
    site.do("add", site.batch(["one", "two"], run=RUN))
    running = start(unit, site)
    try:
        site.wait(lambda: site.notes("begin"), "a job runs")
        running.send_signal(signal.SIGTERM)  # as `systemctl stop` does, and with KillMode=process to this process alone
        assert running.wait(LIMIT) == 0
        assert site.notes("end") == []
        site.open("one", "two")
        site.wait(lambda: site.notes("end") == ["one"], "the job went on")
        running = start(unit, site)
        site.wait(lambda: set(site.states().values()) == {"done"}, "the batch comes to its end")
        site.wait(lambda: not site.left(room), "nothing is left")
        site.wait(lambda: not site.left(room), "and nothing of it is left")
        running.send_signal(signal.SIGTERM)
        assert running.wait(LIMIT) == 0
    finally:
        running.kill()
        running.wait()
    assert site.notes("begin") == ["one", "two"]


@pytest.mark.parametrize("name", UNITS)
def test_a_unit_starts_its_service_again_whatever_ended_it_and_ends_no_job(name: str) -> None:
    unit = Unit(UNITS[name].read_text())
    assert unit.one("Restart") == "always"
    assert unit.one("StartLimitIntervalSec") == "0"
    assert unit.one("KillMode") == "process"
    assert unit.one("OOMPolicy") == "continue"


@pytest.mark.parametrize("name", UNITS)
def test_systemd_finds_nothing_wrong_with_a_unit(name: str, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("left out: there is no systemd-analyze")
    copy = tmp_path / "distribute.service"
    program = Unit(UNITS[name].read_text()).one("ExecStart").split()[0]
    copy.write_text(UNITS[name].read_text().replace(program, "/bin/true"))  # one that is installed here
    ended = subprocess.run(
        ["systemd-analyze", f"--{name}", "--man=no", "verify", str(copy)],
        env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path), "SYSTEMD_LOG_LEVEL": "warning"},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LIMIT, check=False,
    )  # fmt: skip
    ours = [line for line in (ended.stdout + ended.stderr).splitlines() if copy.name in line]
    assert (ended.returncode, ours) == (0, []), ended.stderr
