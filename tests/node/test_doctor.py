"""`nodes doctor` on a node that is well, and on nodes with one thing wrong each."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from distribute_ssh.model.inventory import NodeEntry
from distribute_ssh.node import connection, doctor
from distribute_ssh.node.doctor import Check
from tests.node.conftest import fill
from tests.support import processes
from tests.support.accounts import Account, account
from tests.support.lab import Lab
from tests.support.sshd import host_block, make_key


async def examined(lab: Lab, entry: NodeEntry) -> list[Check]:
    connector = lab.connector()
    try:
        return [check async for check in doctor.examine(connector, entry)]
    finally:
        await connector.close()


def entry_of(lab: Lab, name: str = "lab1") -> NodeEntry:
    return NodeEntry(name, scratch=str(lab.nodes[name].scratch))


def wrong(checks: list[Check]) -> Check:
    """The one that is wrong, which always says what to do."""
    (found,) = [check for check in checks if check.ok is False]
    assert found.remedy
    return found


@pytest.mark.sshd
async def test_a_good_node_passes_every_step_and_nothing_of_us_is_left(lab: Lab) -> None:
    node = lab.add("lab1")
    checks = await examined(lab, entry_of(lab))
    assert [check for check in checks if check.ok is False] == []
    steps = [check.step for check in checks]
    assert steps[:5] == ["reach", "host key", "login", "shell", "sftp"]
    assert {"scratch", "room", "python3", "tools", "clock", "job", "log-out"} <= set(steps)
    assert list((node.room / "attempts").iterdir()) == []
    assert processes.running("sleep", "60") == []


async def test_this_machine_needs_no_login(lab: Lab, tmp_path: Path) -> None:
    checks = await examined(lab, NodeEntry("here", connection="local", scratch=str(tmp_path)))
    assert [check for check in checks if check.ok is False] == []
    assert not {"host key", "login", "sftp"} & {check.step for check in checks}
    assert "job" in {check.step for check in checks}


@pytest.mark.sshd
async def test_a_machine_that_is_off_fails_at_the_first_step_and_ends_there(lab: Lab) -> None:
    lab.add("lab1").sshd.stop()
    checks = await examined(lab, entry_of(lab))
    assert wrong(checks).step == "reach"
    assert len(checks) == 1


async def test_a_name_nobody_knows_fails_at_the_first_step(lab: Lab) -> None:
    checks = await examined(lab, NodeEntry("lab9", host="no-such-machine.invalid"))
    assert wrong(checks).step == "reach"


async def test_a_broken_ssh_configuration_is_told(lab: Lab) -> None:
    lab.ssh_config.write_text("NoSuchKeyword yes\n")
    found = wrong(await examined(lab, NodeEntry("lab1")))
    assert found.step == "reach"
    assert "nosuchkeyword" in found.text.lower()


@pytest.mark.sshd
async def test_an_unknown_host_key_is_told_with_the_command_that_trusts_it(lab: Lab) -> None:
    lab.add("lab1", known=False)
    found = wrong(await examined(lab, entry_of(lab)))
    assert found.step == "host key"
    assert "distribute nodes trust lab1" in (found.remedy or "")


@pytest.mark.sshd
async def test_a_configuration_that_does_not_check_host_keys_is_told(lab: Lab) -> None:
    node = lab.add("lab1")
    lab.block("lab1", host_block("lab1", node.sshd.port, lab.key, Path("none")))
    assert wrong(await examined(lab, entry_of(lab))).step == "host key"


@pytest.mark.sshd
async def test_a_refused_login_is_told_after_the_host_key_was_found_good(lab: Lab) -> None:
    lab.add("lab1")
    entry = replace(entry_of(lab), identity=str(make_key(lab.folder / "id_wrong")))
    checks = await examined(lab, entry)
    assert wrong(checks).step == "login"
    assert [(check.step, check.ok) for check in checks[:2]] == [("reach", True), ("host key", True)]
    assert "authorized_keys" in (checks[-1].remedy or "")


@pytest.mark.sshd
async def test_a_forced_command_is_told(lab: Lab) -> None:
    lab.add("lab1", ["ForceCommand echo no shell for you"])
    found = wrong(await examined(lab, entry_of(lab)))
    assert found.step == "shell"
    assert "ForceCommand" in (found.remedy or "")


@pytest.mark.sshd
async def test_an_sshd_without_sftp_is_told(lab: Lab) -> None:
    node = lab.add("lab1")
    node.sshd.stop()
    node.sshd.sftp = "/bin/false"
    node.sshd.start()
    assert wrong(await examined(lab, entry_of(lab))).step == "sftp"


@pytest.mark.sshd
async def test_a_scratch_folder_that_is_not_there_is_told(lab: Lab) -> None:
    lab.add("lab1")
    checks = await examined(lab, NodeEntry("lab1", scratch="/nowhere"))
    assert wrong(checks).step == "scratch"
    assert "`scratch:` of lab1" in (wrong(checks).remedy or "")
    assert "job" not in {check.step for check in checks}


@pytest.mark.root
@pytest.mark.sshd
async def test_a_full_scratch_disk_is_told(lab: Lab, small_disk: Path) -> None:
    lab.add("lab1")
    fill(small_disk)
    found = [check for check in await examined(lab, NodeEntry("lab1", scratch=str(small_disk))) if check.ok is False]
    assert [check.step for check in found] == ["room", "job"]


@pytest.mark.root
@pytest.mark.sshd
async def test_a_scratch_disk_mounted_noexec_is_told(lab: Lab, small_disk: Path) -> None:
    lab.add("lab1")
    subprocess.run(["mount", "-o", "remount,noexec", small_disk], check=True)
    checks = await examined(lab, NodeEntry("lab1", scratch=str(small_disk)))
    (found,) = [check for check in checks if check.step == "noexec"]
    assert found.ok is None
    assert found.remedy


@pytest.mark.sshd
async def test_a_node_without_python_is_told(lab: Lab) -> None:
    lab.add("lab1")
    found = wrong(await examined(lab, replace(entry_of(lab), python="/nowhere/python3")))
    assert found.step == "python3"
    assert "`python:` of lab1" in (found.remedy or "")


@pytest.mark.sshd
async def test_a_node_that_is_cut_off_meanwhile_is_told(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    node = lab.add("lab1")
    connector = lab.connector()
    checks = []
    async for check in doctor.examine(connector, entry_of(lab)):
        checks.append(check)
        if check.step == "login":
            node.sshd.kill_sessions()
    await connector.close()
    assert wrong(checks).text
    assert len(checks) < 6


@pytest.mark.sshd
async def test_what_ends_with_our_log_out_is_found_by_trying(lab: Lab, tmp_path: Path) -> None:
    """As systemd does it where KillUserProcesses is set: whatever a login left running is ended with it."""
    node = lab.add("lab1")
    kill = f'for each in "{node.room}"/attempts/*/pid; do read -r pid rest < "$each" && kill -9 "$pid"; done'
    login = tmp_path / "login"
    login.write_text(f'/bin/sh -c "$SSH_ORIGINAL_COMMAND"\n{kill} 2> /dev/null\n')
    node.sshd.stop()
    node.sshd.config.append(f"ForceCommand /bin/sh {login}")
    node.sshd.start()
    found = wrong(await examined(lab, entry_of(lab)))
    assert found.step == "log-out"
    assert "enable-linger" in (found.remedy or "")


# --- start-up files ---


@pytest.fixture
def person(lab: Lab) -> Iterator[Account]:
    """An account on the node lab1 whose login shell is bash."""
    node = lab.add("lab1")
    with account("/bin/bash", lab.key) as made:
        lab.block("lab1", host_block("lab1", node.sshd.port, lab.key, lab.known_hosts, user=made.name))
        yield made


async def of_person(lab: Lab, person: Account) -> list[Check]:
    return await examined(lab, NodeEntry("lab1", scratch=str(person.home)))


@pytest.mark.root
@pytest.mark.sshd
async def test_noise_of_a_start_up_file_is_shown(lab: Lab, person: Account) -> None:
    person.write(".bashrc", "echo Welcome to the lab!\n")
    checks = await of_person(lab, person)
    (shell,) = [check for check in checks if check.step == "shell"]
    assert shell.ok is None
    assert "Welcome to the lab!" in shell.text
    assert "[ -t 1 ] || return" in (shell.remedy or "")
    # OpenSSH's own sftp-server is started by the same shell, and the noise breaks it.
    if not (sftp := next(check for check in checks if check.step == "sftp")).ok:
        assert "internal-sftp" in (sftp.remedy or "")


@pytest.mark.root
@pytest.mark.sshd
async def test_a_start_up_file_that_hangs_is_told(lab: Lab, person: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "BEGIN_LIMIT", 1.0)
    person.write(".bashrc", "sleep 60\n")
    found = wrong(await of_person(lab, person))
    assert found.step == "shell"
    assert "start-up file" in (found.remedy or "")


@pytest.mark.root
@pytest.mark.sshd
async def test_a_start_up_file_that_exits_is_told(lab: Lab, person: Account) -> None:
    person.write(".bashrc", "exit 0\n")
    found = wrong(await of_person(lab, person))
    assert found.step == "shell"
    assert ".bashrc" in (found.remedy or "")


@pytest.mark.root
@pytest.mark.sshd
async def test_an_ordinary_account_passes(lab: Lab, person: Account) -> None:
    checks = await of_person(lab, person)
    assert [check for check in checks if check.ok is False] == []
    assert f"as {person.name}" in [check.text for check in checks]
    assert os.stat(person.home / f"distribute-{person.home.stat().st_uid}").st_mode & 0o777 == 0o700
