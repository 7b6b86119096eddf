"""Reaching a machine: whom we trust, how we log in, by which way, and how long we wait."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import os
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from distribute_ssh.errors import HostKeyError, LoginError, NodeError, UnreachableError, UsageError
from distribute_ssh.node.connection import Connector, KnownHosts
from tests.support.lab import Lab
from tests.support.sshd import host_block, make_key, public
from tests.support.wait import until

pytestmark = pytest.mark.sshd


def fingerprint(key: Path) -> str:
    shown = subprocess.run(["ssh-keygen", "-lf", key], check=True, capture_output=True, text=True).stdout
    return shown.split()[1]


async def works(lab: Lab, name: str = "lab1") -> bool:
    async with lab.link(name) as link:
        return (await link.run("echo hello")).stdout == b"hello\n"


async def refusal(lab: Lab, name: str = "lab1") -> NodeError:
    with pytest.raises(NodeError) as caught:
        await works(lab, name)
    return caught.value


# --- host keys ---


async def test_an_unknown_host_key_is_refused_with_its_fingerprint_and_what_to_do(lab: Lab) -> None:
    node = lab.add("lab1", known=False)
    error = await refusal(lab)
    assert isinstance(error, HostKeyError)
    assert not error.retryable
    assert fingerprint(node.sshd.host_key) in str(error)
    assert "distribute nodes trust lab1" in str(error)


async def test_nothing_is_sent_to_a_machine_with_an_unknown_key(lab: Lab) -> None:
    node = lab.add("lab1", known=False)
    await refusal(lab)
    assert "Accepted" not in node.sshd.log.read_text()
    assert "publickey" not in node.sshd.log.read_text()


async def test_a_trusted_key_opens_the_way(lab: Lab) -> None:
    node = lab.add("lab1", known=False)
    connector = lab.connector()
    key = await connector.host_key("lab1")
    assert key.get_fingerprint() == fingerprint(node.sshd.host_key)
    connector.known_hosts.trust("lab1", key)
    assert await works(lab)
    assert lab.own_known_hosts.stat().st_mode & 0o077 == 0


async def test_trust_holds_for_that_node_alone(lab: Lab) -> None:
    lab.add("lab1", known=False)
    lab.add("lab2", known=False)
    connector = lab.connector()
    connector.known_hosts.trust("lab1", await connector.host_key("lab1"))
    assert await works(lab, "lab1")
    assert isinstance(await refusal(lab, "lab2"), HostKeyError)


async def test_a_changed_key_is_refused_with_both_fingerprints_and_never_retried(lab: Lab) -> None:
    node = lab.add("lab1")
    known = fingerprint(node.sshd.host_key)
    node.sshd.stop()
    node.sshd.host_key.unlink()
    shown = fingerprint(make_key(node.sshd.host_key))
    node.sshd.start()
    error = await refusal(lab)
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
    assert isinstance(await refusal(lab), HostKeyError)
    connector.known_hosts.trust("lab1", await connector.host_key("lab1"))
    assert await works(lab)
    assert len(lab.own_known_hosts.read_text().splitlines()) == 1


async def test_a_hashed_known_hosts_is_understood(lab: Lab) -> None:
    lab.add("lab1")
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", lab.known_hosts], check=True, capture_output=True)
    assert "127.0.0.1" not in lab.known_hosts.read_text()
    assert await works(lab)


async def test_a_host_key_alias_is_looked_up_in_the_place_of_the_name(lab: Lab) -> None:
    node = lab.add("lab1", known=False, ssh=["HostKeyAlias the-machine"])
    lab.know(f"the-machine {public(node.sshd.host_key)}")
    assert await works(lab)


async def test_a_revoked_key_is_refused_though_it_is_listed(lab: Lab) -> None:
    node = lab.add("lab1")
    lab.know(f"@revoked * {public(node.sshd.host_key)}")
    assert isinstance(await refusal(lab), HostKeyError)


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
    assert isinstance(await refusal(lab), HostKeyError)
    lab.know(f"@cert-authority * {public(authority)}")
    assert await works(lab)


async def test_user_known_hosts_none_is_refused(lab: Lab) -> None:
    """It would mean: do not check."""
    node = lab.add("lab1")
    lab.block("lab1", host_block("lab1", node.sshd.port, lab.key, Path("none")))
    assert "UserKnownHostsFile none" in str(await refusal(lab))


async def test_strict_host_key_checking_no_changes_nothing(lab: Lab) -> None:
    lab.add("lab1", known=False, ssh=["StrictHostKeyChecking no"])
    assert isinstance(await refusal(lab), HostKeyError)


async def test_a_known_hosts_file_that_is_not_there_is_passed_over(lab: Lab) -> None:
    node = lab.add("lab1")
    files = f"{lab.folder}/nowhere {lab.known_hosts}"
    lab.block("lab1", host_block("lab1", node.sshd.port, lab.key, Path(files)))
    assert await works(lab)


@pytest.mark.parametrize("line", ["@revoked", "lonely", "@strange * ssh-ed25519 AAAA"])
async def test_a_broken_line_in_known_hosts_is_named(lab: Lab, line: str) -> None:
    lab.add("lab1")
    lab.know(line)
    said = str(await refusal(lab))
    assert str(lab.known_hosts) in said
    assert line.split()[0].lstrip("@") in said


async def test_a_key_of_a_kind_we_do_not_know_is_passed_over(lab: Lab) -> None:
    lab.add("lab1")
    lab.know("[127.0.0.1]:1 ssh-of-the-future AAAAC3Nz")
    assert await works(lab)


async def test_of_several_host_keys_the_known_one_is_asked_for(lab: Lab) -> None:
    node = lab.add("lab1", known=False)
    other = make_key(node.sshd.folder / "host_key_rsa", "rsa")
    node.sshd.stop()
    node.sshd.config.append(f"HostKey {other}")
    node.sshd.start()
    lab.know(f"[127.0.0.1]:{node.sshd.port} {public(other)}")
    assert await works(lab)


# --- logging in ---


async def test_a_key_of_its_own_opens_the_account(lab: Lab) -> None:
    node = lab.add("lab1")
    lab.block("lab1", host_block("lab1", node.sshd.port, lab.folder / "nowhere", lab.known_hosts))
    assert isinstance(await refusal(lab), LoginError)
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
        await works(lab)


async def test_a_key_with_a_passphrase_does_not_stand_in_the_way_of_the_next(lab: Lab) -> None:
    node = lab.add("lab1")
    locked = make_key(lab.folder / "id_locked")
    subprocess.run(["ssh-keygen", "-q", "-p", "-N", "secret", "-f", locked], check=True, capture_output=True)
    lab.block("lab1", host_block("lab1", node.sshd.port, locked, lab.known_hosts, f"IdentityFile {lab.key}"))
    assert await works(lab)


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
    assert await works(lab)


async def test_the_agent_is_not_asked_where_only_named_keys_may_be_offered(lab: Lab, agent: Path) -> None:
    node = lab.add("lab1")
    lab.block("lab1", host_block("lab1", node.sshd.port, lab.folder / "nowhere", lab.known_hosts))
    assert isinstance(await refusal(lab), LoginError)


async def test_a_named_public_key_picks_its_private_half_from_the_agent(lab: Lab, agent: Path) -> None:
    """The private half may live in the agent alone, as on a token."""
    node = lab.add("lab1")
    only_public = lab.folder / "id_token"
    only_public.with_suffix(".pub").write_text(lab.key.with_suffix(".pub").read_text())
    lab.block("lab1", host_block("lab1", node.sshd.port, only_public, lab.known_hosts))
    assert await works(lab)


async def test_a_certificate_beside_the_key_opens_the_account(lab: Lab) -> None:
    authority = make_key(lab.folder / "authority")
    key = make_key(lab.folder / "id_signed")
    sign = ["ssh-keygen", "-q", "-s", authority, "-I", "me", "-n", getpass.getuser(), key.with_suffix(".pub")]
    subprocess.run(sign, check=True, capture_output=True)
    node = lab.add("lab1", [f"TrustedUserCAKeys {authority}.pub"])
    lab.block("lab1", host_block("lab1", node.sshd.port, key, lab.known_hosts))
    assert await works(lab)


async def test_a_named_key_of_the_agent_goes_before_its_others(lab: Lab, agent: Path) -> None:
    """A server that allows few tries would otherwise hang up before it sees the right one."""
    node = lab.add("lab1", ["MaxAuthTries 2"])
    others = [make_key(lab.folder / f"id_{n}") for n in range(4)]
    subprocess.run(["ssh-add", "-q", "-D"], check=True, capture_output=True)
    subprocess.run(["ssh-add", "-q", *others, lab.key], check=True, capture_output=True)
    block = host_block("lab1", node.sshd.port, lab.key, lab.known_hosts)
    lab.block("lab1", block.replace("IdentitiesOnly yes", "IdentitiesOnly no"))
    assert await works(lab)


async def test_an_agent_that_is_gone_does_not_stand_in_the_way(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSH_AUTH_SOCK", str(lab.folder / "no-agent"))
    node = lab.add("lab1")
    lab.block("lab1", host_block("lab1", node.sshd.port, lab.key, lab.known_hosts).replace("Only yes", "Only no"))
    assert await works(lab)


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
            await works(lab)


async def test_the_key_of_a_jump_host_is_checked_as_well(lab: Lab) -> None:
    jump = lab.add("jump", known=False)
    lab.add("lab1", ssh=["ProxyJump jump"])
    error = await refusal(lab)
    assert isinstance(error, HostKeyError)
    assert fingerprint(jump.sshd.host_key) in str(error)


async def test_a_proxy_command_is_used(lab: Lab) -> None:
    node = lab.add("lab1")
    connect = f"exec 3<>/dev/tcp/127.0.0.1/{node.sshd.port}; cat <&3 & cat >&3; kill $!"
    block = host_block("lab1", 1, lab.key, lab.known_hosts, f"ProxyCommand bash -c '{connect}'", "HostKeyAlias it")
    lab.block("lab1", block)
    lab.know(f"it {public(node.sshd.host_key)}")
    assert await works(lab)


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
    assert await works(lab)


async def test_a_broken_configuration_is_told_in_openssh_s_words(lab: Lab) -> None:
    lab.add("lab1", ssh=["NoSuchKeyword yes"])
    with pytest.raises(UsageError, match=r"(?i)nosuchkeyword"):
        await works(lab)


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
    assert await works(lab)


# --- silence ---

Speak = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def peer(lab: Lab, speak: Speak) -> AsyncIterator[None]:
    """A machine `lab1` whose port 22 does what `speak` does."""
    writers = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        with contextlib.suppress(ConnectionError):
            await speak(reader, writer)

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    lab.block("lab1", host_block("lab1", port, lab.key, lab.known_hosts, "ConnectTimeout 1"))
    async with server:
        yield
    for writer in writers:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A line now and then, never the one that counts."""
    while True:
        writer.write(b"please hold the line\r\n")
        await writer.drain()
        await asyncio.sleep(0.05)


async def greet_and_sleep(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"SSH-2.0-Sleepy\r\n")
    await reader.read()


async def speak_http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n<html></html>\n")
    writer.close()


async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


@pytest.mark.parametrize("speak", [say_nothing, drip, greet_and_sleep, speak_http, hang_up])
async def test_a_peer_that_is_no_sshd_is_unreachable_in_bounded_time(lab: Lab, speak: Speak) -> None:
    async with peer(lab, speak):
        began = time.monotonic()
        with pytest.raises(UnreachableError) as caught:
            await lab.connector().open("lab1", "lab1")
        assert time.monotonic() - began < 10
        assert caught.value.retryable
        assert str(caught.value).startswith("lab1: ")


@pytest.mark.parametrize("speak", [say_nothing, drip, greet_and_sleep])
async def test_asking_such_a_peer_for_its_key_ends_as_well(lab: Lab, speak: Speak) -> None:
    async with peer(lab, speak):
        began = time.monotonic()
        with pytest.raises(UnreachableError):
            await lab.connector().host_key("lab1")
        assert time.monotonic() - began < 10


async def test_a_closed_port_is_unreachable(lab: Lab) -> None:
    node = lab.add("lab1")
    node.sshd.stop()
    with pytest.raises(UnreachableError, match="refused"):
        await works(lab)


async def test_a_name_nobody_knows_is_unreachable(lab: Lab) -> None:
    with pytest.raises(UnreachableError):
        await lab.connector().open("lab1", "no-such-machine.invalid")


async def test_a_peer_that_falls_silent_is_noticed(lab: Lab) -> None:
    """Frozen, as a machine that swaps or whose cable was pulled: nothing is closed, nothing comes."""
    node = lab.add("lab1", ssh=["ServerAliveInterval 1"])
    async with lab.link("lab1") as link:
        async with link.process("echo ready; cat") as process:
            await process.readline()
            node.sshd.freeze()
            began = time.monotonic()
            with pytest.raises(UnreachableError):
                await process.readline()
            assert 2 < time.monotonic() - began < 15
        assert not link.is_open


async def test_by_default_a_silent_peer_is_noticed_within_a_minute(lab: Lab) -> None:
    lab.add("lab1")
    target = await lab.connector().target("lab1")
    assert 0 < target.alive_interval * (target.alive_count + 1) <= 60


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
