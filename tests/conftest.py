"""What every test may ask for, and what has to be left out on this machine, said plainly."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import accounts
from tests.support.lab import Lab
from tests.support.sshd import PROGRAM

COMPLETE = bool(os.environ.get("DISTRIBUTE_TESTS_COMPLETE"))
HERE = Path(__file__).parent


def pytest_configure() -> None:
    """Accounts of runs that were killed are in nobody's way for long; Ctrl-C reaches what the tests start."""
    accounts.remove_leftovers()
    # Whoever is started in the background by a shell ignores it, and so does all that it starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what cannot run here; tests/run.sh installs what root allows. What takes long is spread."""
    items[:] = _spread(items)
    missing = {}
    if PROGRAM is None:
        missing["sshd"] = "there is no sshd (apt-get install openssh-server)"
    if os.geteuid() != 0:
        missing["root"] = "only root can do that"
    for item in items:
        for mark, why in missing.items():
            if item.get_closest_marker(mark):
                item.add_marker(pytest.mark.skip(reason=f"left out: {why}"))


SLOW = ("endtoend", "head", "lab")  # groups of tests that take seconds each


def _spread(items: list[pytest.Item]) -> list[pytest.Item]:
    """Put the files of slow tests at equal distances.

    Each of several workers begins with a share of the list: who got all of a group would end minutes after the rest.
    """
    slow: dict[Path, list[pytest.Item]] = {}
    rest = []
    for item in items:
        if item.path.parent.name in SLOW:
            slow.setdefault(item.path, []).append(item)
        else:
            rest.append(item)
    spread = [] if slow else rest
    for number, file in enumerate(slow.values()):
        begin, end = (len(rest) * each // len(slow) for each in (number, number + 1))
        spread += [*file, *rest[begin:end]]
    return spread


def pytest_sessionfinish(session: pytest.Session) -> None:
    """With nothing to be left out, what was left out is a failure."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if COMPLETE and session.exitstatus == pytest.ExitCode.OK and reporter and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which groups of tests ran."""
    groups: Counter[str] = Counter()
    left_out = len(terminalreporter.stats.get("skipped", ()))
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, ()):
            parts = Path(report.nodeid.partition("::")[0]).parts
            groups[parts[1] if len(parts) > 2 else parts[0]] += 1
    terminalreporter.section("groups", sep="-")
    for group in sorted(groups):
        terminalreporter.line(f"{group:10} {groups[group]:5}")
    if left_out:
        terminalreporter.line(f"{'left out':10} {left_out:5}" + (", which is a failure here" if COMPLETE else ""))


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    """An empty lab; `lab.add(NAME)` starts a node in it."""
    made = Lab(tmp_path / "lab")
    yield made
    made.close()


@pytest.fixture(scope="session")
def shared_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab with the node `lab1`, for tests that leave it as they found it."""
    made = Lab(tmp_path_factory.mktemp("shared") / "lab")
    made.add("lab1")
    yield made
    made.close()
