"""Reaching a machine: how we log in, by which way, and whatever its ssh configuration says."""

from __future__ import annotations

import asyncio
import getpass
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from distribute_ssh.errors import HostKeyError, LoginError, UnreachableError, UsageError
from tests.support.lab import Lab
from tests.support.sshd import fingerprint, host_block, make_key, public
from tests.support.wait import until

pytestmark = pytest.mark.sshd


# --- logging in ---


async def test_a_key_of_its_own_opens_the_account(lab: Lab) -> None:
    node = lab.add("lab1")
    lab.block("lab1", host_block("lab1", node.sshd.port, lab.folder / "nowhere", lab.known_hosts))
    assert isinstance(await lab.refusal(), LoginError)
    connector = lab.connector()
    link = await connector.open("lab1", "lab1", identity=lab.key)
    assert (await link.run("true")).ok
    await link.close()


async def test_a_wrong_key_is_a_refused_login_with_the_command_to_try(lab: Lab) -> None:
    lab.add("lab1")
    with pytest.raises(LoginError, match="refused") as caught:
        await lab.connector().open("lab1", "lab1", identity=make_key(lab.folder / "id_wrong"))
    assert not caught.value.retryable
    assert "ssh lab1" in str(caught.value)


async def test_where_there_is_no_agent_a_refused_login_says_so_and_how_to_do_without(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = lab.add("lab1")
    lab.block("lab1", host_block("lab1", node.sshd.port, lab.folder / "nowhere", lab.known_hosts))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    with pytest.raises(LoginError, match=r"no ssh agent here .* as under cron") as caught:
        await lab.connector().open("lab1", "lab1")
    assert "`identity:` in the inventory" in str(caught.value)
    # A key of its own that is refused is another matter, and so is an agent without the right one.
    with pytest.raises(LoginError) as caught:
        await lab.connector().open("lab1", "lab1", identity=make_key(lab.folder / "id_wrong"))
    assert "agent" not in str(caught.value)
    monkeypatch.setenv("SSH_AUTH_SOCK", str(lab.folder / "no-agent"))
    with pytest.raises(LoginError) as caught:
        await lab.connector().open("lab1", "lab1")
    assert "SSH_AUTH_SOCK" not in str(caught.value)


async def test_an_unknown_user_is_a_refused_login(lab: Lab) -> None:
    lab.add("lab1")
    with pytest.raises(LoginError):
        await lab.connector().open("lab1", "lab1", user="nobody-of-that-name")


async def test_too_many_keys_are_called_so(lab: Lab) -> None:
    node = lab.add("lab1", ["MaxAuthTries 2"])
    wrong = [f"IdentityFile {make_key(lab.folder / f'id_{n}')}" for n in range(4)]
    block = host_block("lab1", node.sshd.port, lab.folder / "id_0", lab.known_hosts, *wrong)
    lab.block("lab1", block)
    with pytest.raises(LoginError, match="too many keys"):
        await lab.works()


async def test_a_key_with_a_passphrase_does_not_stand_in_the_way_of_the_next(lab: Lab) -> None:
    node = lab.add("lab1")
    locked = make_key(lab.folder / "id_locked")
    subprocess.run(["ssh-keygen", "-q", "-p", "-N", "secret", "-f", locked], check=True, capture_output=True)
    lab.block("lab1", host_block("lab1", node.sshd.port, locked, lab.known_hosts, f"IdentityFile {lab.key}"))
    assert await lab.works()


@pytest.fixture
def agent(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An ssh-agent that holds the lab's key under another name."""
    if shutil.which("ssh-agent") is None:
        pytest.skip("left out: there is no ssh-agent")
    address = lab.folder / "agent"
    running = subprocess.Popen(["ssh-agent", "-D", "-a", address], stdout=subprocess.DEVNULL)
    monkeypatch.setenv("SSH_AUTH_SOCK", str(address))
    for _ in range(500):
        if subprocess.run(["ssh-add", "-q", lab.key], capture_output=True, check=False).returncode == 0:
            break
        time.sleep(0.01)
    yield address
    running.kill()
    running.wait()


async def test_the_agent_is_asked(lab: Lab, agent: Path) -> None:
    node = lab.add("lab1")
    block = host_block("lab1", node.sshd.port, lab.folder / "nowhere", lab.known_hosts)
    lab.block("lab1", block.replace("IdentitiesOnly yes", "IdentitiesOnly no"))
    assert await lab.works()


async def test_the_agent_is_not_asked_where_only_named_keys_may_be_offered(lab: Lab, agent: Path) -> None:
    node = lab.add("lab1")
    lab.block("lab1", host_block("lab1", node.sshd.port, lab.folder / "nowhere", lab.known_hosts))
    assert isinstance(await lab.refusal(), LoginError)


async def test_a_named_public_key_picks_its_private_half_from_the_agent(lab: Lab, agent: Path) -> None:
    """The private half may live in the agent alone, as on a token."""
    node = lab.add("lab1")
    only_public = lab.folder / "id_token"
    only_public.with_suffix(".pub").write_text(lab.key.with_suffix(".pub").read_text())
    lab.block("lab1", host_block("lab1", node.sshd.port, only_public, lab.known_hosts))
    assert await lab.works()


async def test_a_certificate_beside_the_key_opens_the_account(lab: Lab) -> None:
    authority = make_key(lab.folder / "authority")
    key = make_key(lab.folder / "id_signed")
    sign = ["ssh-keygen", "-q", "-s", authority, "-I", "me", "-n", getpass.getuser(), key.with_suffix(".pub")]
    subprocess.run(sign, check=True, capture_output=True)
    node = lab.add("lab1", [f"TrustedUserCAKeys {authority}.pub"])
    lab.block("lab1", host_block("lab1", node.sshd.port, key, lab.known_hosts))
    assert await lab.works()


async def test_a_named_key_of_the_agent_goes_before_its_others(lab: Lab, agent: Path) -> None:
    """A server that allows few tries would otherwise hang up before it sees the right one."""
    node = lab.add("lab1", ["MaxAuthTries 2"])
    others = [make_key(lab.folder / f"id_{n}") for n in range(4)]
    subprocess.run(["ssh-add", "-q", "-D"], check=True, capture_output=True)
    subprocess.run(["ssh-add", "-q", *others, lab.key], check=True, capture_output=True)
    block = host_block("lab1", node.sshd.port, lab.key, lab.known_hosts)
    lab.block("lab1", block.replace("IdentitiesOnly yes", "IdentitiesOnly no"))
    assert await lab.works()


async def test_an_agent_that_is_gone_does_not_stand_in_the_way(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSH_AUTH_SOCK", str(lab.folder / "no-agent"))
    node = lab.add("lab1")
    lab.block("lab1", host_block("lab1", node.sshd.port, lab.key, lab.known_hosts).replace("Only yes", "Only no"))
    assert await lab.works()


# --- the way there ---


async def test_a_jump_host_is_gone_through_and_shared(lab: Lab) -> None:
    jump = lab.add("jump")
    for name in ("lab1", "lab2", "lab3"):
        lab.add(name, ssh=["ProxyJump jump"])
    connector = lab.connector()
    links = await asyncio.gather(*(connector.open(name, name) for name in ("lab1", "lab2", "lab3")))
    try:
        assert [(await link.run("echo $SSH_CONNECTION")).ok for link in links] == [True] * 3
        assert jump.sshd.sessions() == 1
        assert all(lab.nodes[name].sshd.sessions() == 1 for name in ("lab1", "lab2", "lab3"))
    finally:
        for link in links:
            await link.close()
        await connector.close()
    await until(lambda: jump.sshd.sessions() == 0, "the way through the jump host is closed")


async def test_a_jump_host_that_was_cut_is_connected_anew(lab: Lab) -> None:
    jump = lab.add("jump")
    lab.add("lab1", ssh=["ProxyJump jump"])
    connector = lab.connector()
    first = await connector.open("lab1", "lab1")
    jump.sshd.kill_sessions()
    with pytest.raises(UnreachableError):
        await first.run("sleep 30")
    await until(lambda: not first.is_open, "the link knows")
    second = await connector.open("lab1", "lab1")
    assert (await second.run("true")).ok
    for link in (first, second):
        await link.close()
    await connector.close()


async def test_a_chain_of_jump_hosts_is_gone_through(lab: Lab) -> None:
    jumps = [lab.add("jump1"), lab.add("jump2")]
    lab.add("lab1", ssh=["ProxyJump jump1,jump2"])
    async with lab.link("lab1") as link:
        assert (await link.run("true")).ok
        assert [jump.sshd.sessions() for jump in jumps] == [1, 1]


async def test_a_jump_host_may_need_one_itself(lab: Lab) -> None:
    jumps = [lab.add("jump1"), lab.add("jump2", ssh=["ProxyJump jump1"])]
    lab.add("lab1", ssh=["ProxyJump jump2"])
    async with lab.link("lab1") as link:
        assert (await link.run("true")).ok
        assert [jump.sshd.sessions() for jump in jumps] == [1, 1]


async def test_jump_hosts_in_a_circle_are_refused(lab: Lab) -> None:
    lab.add("jump1", ssh=["ProxyJump jump2"])
    lab.add("jump2", ssh=["ProxyJump jump1"])
    lab.add("lab1", ssh=["ProxyJump jump1"])
    async with asyncio.timeout(20):
        with pytest.raises(UsageError, match="circle"):
            await lab.works()


async def test_the_key_of_a_jump_host_is_checked_as_well(lab: Lab) -> None:
    jump = lab.add("jump", known=False)
    lab.add("lab1", ssh=["ProxyJump jump"])
    error = await lab.refusal()
    assert isinstance(error, HostKeyError)
    assert fingerprint(jump.sshd.host_key) in str(error)


async def test_a_proxy_command_is_used(lab: Lab) -> None:
    node = lab.add("lab1")
    connect = f"exec 3<>/dev/tcp/127.0.0.1/{node.sshd.port}; cat <&3 & cat >&3; kill $!"
    block = host_block("lab1", 1, lab.key, lab.known_hosts, f"ProxyCommand bash -c '{connect}'", "HostKeyAlias it")
    lab.block("lab1", block)
    lab.know(f"it {public(node.sshd.host_key)}")
    assert await lab.works()


async def test_a_machine_that_is_no_alias_is_reached_by_user_and_port(lab: Lab) -> None:
    node = lab.add("lab1")
    lab.block("lab1", f"Host *\n    IdentityFile {lab.key}\n    UserKnownHostsFile {lab.known_hosts}\n")
    connector = lab.connector()
    link = await connector.open("some-name", "127.0.0.1", user=getpass.getuser(), port=node.sshd.port)
    assert (await link.run("true")).ok
    await link.close()


# --- configurations that OpenSSH accepts ---


@pytest.mark.parametrize(
    "line",
    [
        "ConnectTimeout 10s",
        "ConnectTimeout none",
        "ServerAliveInterval 1m",
        "ServerAliveInterval 30s",
        "Compression yes",
        "RequestTTY force",
        "ForwardAgent yes",
        "ForwardX11 yes",
        "LocalForward 127.0.0.1:1 127.0.0.1:2",
        "RemoteCommand echo no",
        "PermitLocalCommand yes",
        "ControlMaster auto",
        "SendEnv LANG",
        "SetEnv FOO=bar",
        "User {user} # a comment",
        "IdentityFile ~/.ssh/not-there",
        "GlobalKnownHostsFile none",
        "EscapeChar none",
        "VisualHostKey yes",
        "CertificateFile ~/.ssh/not-there",
        "Match localuser {user}\n    ConnectTimeout 5",
    ],
)
async def test_what_openssh_accepts_works_here(lab: Lab, line: str) -> None:
    lab.add("lab1", ssh=[line.format(user=getpass.getuser())])
    assert await lab.works()


async def test_a_broken_configuration_is_told_in_openssh_s_words(lab: Lab) -> None:
    lab.add("lab1", ssh=["NoSuchKeyword yes"])
    with pytest.raises(UsageError, match=r"(?i)nosuchkeyword"):
        await lab.works()


async def test_without_an_ssh_program_the_message_says_what_to_install(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.add("lab1")
    monkeypatch.setenv("PATH", str(lab.folder))
    with pytest.raises(LoginError, match="openssh-client"):
        await lab.connector().open("lab1", "lab1")


async def test_a_banner_that_is_no_text_does_not_end_the_connection(lab: Lab) -> None:
    banner = lab.folder / "banner"
    banner.write_bytes(b"caf\xe9 \xff\n")
    lab.add("lab1", [f"Banner {banner}"])
    assert await lab.works()
