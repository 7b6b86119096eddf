"""What `nodes doctor` makes of the facts of a node."""

from __future__ import annotations

from dataclasses import replace

import pytest

from distribute_ssh.model.inventory import NodeEntry
from distribute_ssh.node import doctor
from distribute_ssh.node.doctor import Check
from distribute_ssh.node.probe import Facts

ENTRY = NodeEntry("lab1")
GOOD = Facts(
    uid=1000,
    user="anna",
    scratch="/scratch",
    scratch_type="ext4",
    scratch_free=500 << 30,
    scratch_inodes_free=10_000_000,
    scratch_exec=True,
    tools={"python3": "3.11.2"},
    has_tar=True,
    find_printf=True,
    setsid_fork=True,
    sha256sum=True,
    awk=True,
    clock=1_000_000,
)


def verdicts(checks: list[Check]) -> dict[str, bool | None]:
    return {check.step: check.ok for check in checks}


def test_a_good_node_has_nothing_to_mend() -> None:
    checks = [*doctor.scratch(GOOD, ENTRY), *doctor.python(GOOD, ENTRY), *doctor.tools(GOOD), doctor.clock(GOOD, 1e6)]
    assert verdicts(checks) == dict.fromkeys(("scratch", "room", "python3", "tools", "clock"), True)
    assert all(check.remedy is None for check in checks)
    assert doctor.lingering(GOOD) is None


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "lustre", "fuse.sshfs"])
def test_scratch_on_a_network_file_system_is_wrong(kind: str) -> None:
    """Other nodes may share it, and would take our attempts for theirs."""
    (found, _) = doctor.scratch(replace(GOOD, scratch_type=kind), ENTRY)
    assert found.ok is False
    assert kind in found.text
    assert "`scratch:` of lab1" in (found.remedy or "")


@pytest.mark.parametrize(
    ("free", "inodes", "ok"),
    [
        (0, 1_000_000, False),
        (10 << 20, 1_000_000, False),
        (500 << 30, 0, False),
        (1 << 30, 1_000_000, None),
        (500 << 30, 100, None),
        (500 << 30, None, True),
    ],
)
def test_room_is_counted_in_bytes_and_in_files(free: int, inodes: int | None, ok: bool | None) -> None:
    checks = doctor.scratch(replace(GOOD, scratch_free=free, scratch_inodes_free=inodes), ENTRY)
    assert verdicts(list(checks)) == {"scratch": True, "room": ok}


def test_room_that_could_not_be_told_is_no_fault() -> None:
    assert verdicts(list(doctor.scratch(replace(GOOD, scratch_free=None), ENTRY)))["room"] is None


def test_without_scratch_there_is_nothing_to_say_about_its_room() -> None:
    checks = list(doctor.scratch(replace(GOOD, scratch=None, no_scratch="/scratch is not there"), ENTRY))
    assert verdicts(checks) == {"scratch": False}
    assert checks[0].text == "/scratch is not there"


def test_a_python_that_is_there_and_broken_is_told_from_one_that_is_not() -> None:
    (gone,) = doctor.python(replace(GOOD, tools={}), ENTRY)
    (broken,) = doctor.python(replace(GOOD, tools={}, broken={"python3": "did not answer within 20 s"}), ENTRY)
    assert (gone.ok, broken.ok) == (False, False)
    assert "there is no python3" in gone.text
    assert "did not answer" in broken.text


@pytest.mark.parametrize("field", ["has_tar", "find_printf", "sha256sum", "setsid_fork"])
def test_a_missing_tool_costs_something_and_its_package_is_named(field: str) -> None:
    (found,) = doctor.tools(replace(GOOD, **{field: False}))
    assert found.ok is None
    assert (found.remedy or "").startswith("install ")


def test_without_awk_jobs_cannot_be_killed_and_that_is_wrong() -> None:
    (found,) = doctor.tools(replace(GOOD, awk=False))
    assert found.ok is False


def test_a_broken_probe_is_shown() -> None:
    (found,) = doctor.tools(replace(GOOD, broken={"nvidia-smi": "is there but shows no GPU"}))
    assert found.ok is None
    assert "nvidia-smi is there but shows no GPU" in found.text


@pytest.mark.parametrize(
    ("changes", "ok"),
    [
        ({"kill_user_processes": True, "linger": False}, False),
        ({"kill_user_processes": True, "linger": True}, True),
        ({"remove_ipc": True, "linger": False}, None),
        ({"remove_ipc": True, "linger": True}, True),
    ],
)
def test_what_ends_jobs_at_log_out_is_known_from_the_settings(changes: dict[str, bool], ok: bool | None) -> None:
    found = doctor.lingering(replace(GOOD, **changes))
    assert found is not None
    assert found.ok is ok
    assert ok is True or "loginctl enable-linger anna" in (found.remedy or "")


def test_users_of_the_system_keep_their_shared_memory() -> None:
    assert doctor.lingering(replace(GOOD, remove_ipc=True, uid=998)) is None


@pytest.mark.parametrize(
    ("now", "ok", "word"), [(1_000_010.0, True, "agrees"), (1_000_200.0, None, "behind"), (999_000.0, None, "ahead")]
)
def test_a_clock_that_is_off_is_shown_with_its_side(now: float, ok: bool | None, word: str) -> None:
    found = doctor.clock(GOOD, now)
    assert (found.ok, word in found.text) == (ok, True)
