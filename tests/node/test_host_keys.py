"""Whom we trust: a machine shows its key before anything is sent to it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from distribute_ssh.errors import HostKeyError
from distribute_ssh.node.connection import Connector, KnownHosts
from tests.support.lab import Lab
from tests.support.sshd import fingerprint, host_block, make_key, public

pytestmark = pytest.mark.sshd


async def test_an_unknown_host_key_is_refused_with_its_fingerprint_and_what_to_do(lab: Lab) -> None:
    node = lab.add("lab1", known=False)
    error = await lab.refusal()
    assert isinstance(error, HostKeyError)
    assert not error.retryable
    assert fingerprint(node.sshd.host_key) in str(error)
    assert "distribute nodes trust lab1" in str(error)


async def test_nothing_is_sent_to_a_machine_with_an_unknown_key(lab: Lab) -> None:
    node = lab.add("lab1", known=False)
    await lab.refusal()
    assert "Accepted" not in node.sshd.log.read_text()
    assert "publickey" not in node.sshd.log.read_text()


async def test_a_trusted_key_opens_the_way(lab: Lab) -> None:
    node = lab.add("lab1", known=False)
    connector = lab.connector()
    key = await connector.host_key("lab1")
    assert key.get_fingerprint() == fingerprint(node.sshd.host_key)
    connector.known_hosts.trust("lab1", key)
    assert await lab.works()
    assert lab.own_known_hosts.stat().st_mode & 0o077 == 0


async def test_trust_holds_for_that_node_alone(lab: Lab) -> None:
    lab.add("lab1", known=False)
    lab.add("lab2", known=False)
    connector = lab.connector()
    connector.known_hosts.trust("lab1", await connector.host_key("lab1"))
    assert await lab.works("lab1")
    assert isinstance(await lab.refusal("lab2"), HostKeyError)


async def test_a_changed_key_is_refused_with_both_fingerprints_and_never_retried(lab: Lab) -> None:
    node = lab.add("lab1")
    known = fingerprint(node.sshd.host_key)
    node.sshd.stop()
    node.sshd.host_key.unlink()
    shown = fingerprint(make_key(node.sshd.host_key))
    node.sshd.start()
    error = await lab.refusal()
    assert isinstance(error, HostKeyError)
    assert not error.retryable
    assert "CHANGED" in str(error)
    assert known in str(error)
    assert shown in str(error)


async def test_trusting_a_new_key_replaces_the_old_one(lab: Lab) -> None:
    node = lab.add("lab1", known=False)
    connector = lab.connector()
    connector.known_hosts.trust("lab1", await connector.host_key("lab1"))
    node.sshd.stop()
    node.sshd.host_key.unlink()
    make_key(node.sshd.host_key)
    node.sshd.start()
    assert isinstance(await lab.refusal(), HostKeyError)
    connector.known_hosts.trust("lab1", await connector.host_key("lab1"))
    assert await lab.works()
    assert len(lab.own_known_hosts.read_text().splitlines()) == 1


async def test_a_hashed_known_hosts_is_understood(lab: Lab) -> None:
    lab.add("lab1")
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", lab.known_hosts], check=True, capture_output=True)
    assert "127.0.0.1" not in lab.known_hosts.read_text()
    assert await lab.works()


async def test_a_host_key_alias_is_looked_up_in_the_place_of_the_name(lab: Lab) -> None:
    node = lab.add("lab1", known=False, ssh=["HostKeyAlias the-machine"])
    lab.know(f"the-machine {public(node.sshd.host_key)}")
    assert await lab.works()


async def test_a_revoked_key_is_refused_though_it_is_listed(lab: Lab) -> None:
    node = lab.add("lab1")
    lab.know(f"@revoked * {public(node.sshd.host_key)}")
    assert isinstance(await lab.refusal(), HostKeyError)


async def test_a_key_signed_by_a_trusted_authority_is_accepted(lab: Lab) -> None:
    authority = make_key(lab.folder / "authority")
    node = lab.add("lab1", known=False)
    sign = [
        "ssh-keygen",
        "-q",
        "-s",
        authority,
        "-I",
        "lab1",
        "-h",
        "-n",
        "127.0.0.1",
        node.sshd.host_key.with_suffix(".pub"),
    ]
    subprocess.run(sign, check=True, capture_output=True)
    node.sshd.stop()
    node.sshd.config.append(f"HostCertificate {node.sshd.folder}/host_key-cert.pub")
    node.sshd.start()
    assert isinstance(await lab.refusal(), HostKeyError)
    lab.know(f"@cert-authority * {public(authority)}")
    assert await lab.works()


async def test_user_known_hosts_none_is_refused(lab: Lab) -> None:
    """It would mean: do not check."""
    node = lab.add("lab1")
    lab.block("lab1", host_block("lab1", node.sshd.port, lab.key, Path("none")))
    assert "UserKnownHostsFile none" in str(await lab.refusal())


async def test_strict_host_key_checking_no_changes_nothing(lab: Lab) -> None:
    lab.add("lab1", known=False, ssh=["StrictHostKeyChecking no"])
    assert isinstance(await lab.refusal(), HostKeyError)


async def test_a_known_hosts_file_that_is_not_there_is_passed_over(lab: Lab) -> None:
    node = lab.add("lab1")
    files = f"{lab.folder}/nowhere {lab.known_hosts}"
    lab.block("lab1", host_block("lab1", node.sshd.port, lab.key, Path(files)))
    assert await lab.works()


@pytest.mark.parametrize("line", ["@revoked", "lonely", "@strange * ssh-ed25519 AAAA"])
async def test_a_broken_line_in_known_hosts_is_named(lab: Lab, line: str) -> None:
    lab.add("lab1")
    lab.know(line)
    said = str(await lab.refusal())
    assert str(lab.known_hosts) in said
    assert line.split()[0].lstrip("@") in said


async def test_a_key_of_a_kind_we_do_not_know_is_passed_over(lab: Lab) -> None:
    lab.add("lab1")
    lab.know("[127.0.0.1]:1 ssh-of-the-future AAAAC3Nz")
    assert await lab.works()


async def test_of_several_host_keys_the_known_one_is_asked_for(lab: Lab) -> None:
    node = lab.add("lab1", known=False)
    other = make_key(node.sshd.folder / "host_key_rsa", "rsa")
    node.sshd.stop()
    node.sshd.config.append(f"HostKey {other}")
    node.sshd.start()
    lab.know(f"[127.0.0.1]:{node.sshd.port} {public(other)}")
    assert await lab.works()


async def test_known_hosts_of_another_home_are_not_read(tmp_path: Path) -> None:
    """OpenSSH looks up the home folder in passwd, whatever $HOME says."""
    connector = Connector(KnownHosts(tmp_path / "own"), config=Path(os.devnull))
    before = os.environ["HOME"]
    try:
        os.environ["HOME"] = str(tmp_path)
        target = await connector.target("anywhere")
    finally:
        os.environ["HOME"] = before
    assert not any(path.is_relative_to(tmp_path) for path in (*target.identities, *target.known_hosts))
