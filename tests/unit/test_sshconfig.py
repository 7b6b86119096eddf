"""What is made of the answer of `ssh -G`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from distribute_ssh.errors import HostKeyError
from distribute_ssh.node import sshconfig
from distribute_ssh.node.sshconfig import Target, split_host

ANSWER = """\
user anna
hostname lab3.campus.edu
port 22
identitiesonly no
identityfile ~/.ssh/id_rsa
identityfile ~/.ssh/id_ed25519
userknownhostsfile /home/anna/.ssh/known_hosts /home/anna/.ssh/known_hosts2
globalknownhostsfile /etc/ssh/ssh_known_hosts /etc/ssh/ssh_known_hosts2
serveraliveinterval 0
connecttimeout none
"""


def parse(*lines: str, environ: dict[str, str] | None = None) -> Target:
    """Read an answer in which some lines say something else."""
    said = {line.split()[0] for line in lines}
    text = "\n".join([*lines, *(line for line in ANSWER.splitlines() if line.split()[0] not in said)])
    return sshconfig.parse("lab3", text, home=Path("/home/anna"), login="anna", environ=environ or {})


def test_the_ordinary_answer_is_read() -> None:
    assert parse() == Target(
        alias="lab3",
        hostname="lab3.campus.edu",
        port=22,
        user="anna",
        key_name="lab3.campus.edu",
        identities=(Path("/home/anna/.ssh/id_rsa"), Path("/home/anna/.ssh/id_ed25519")),
        certificates=(),
        identities_only=False,
        agent=None,
        known_hosts=(
            Path("/home/anna/.ssh/known_hosts"),
            Path("/home/anna/.ssh/known_hosts2"),
            Path("/etc/ssh/ssh_known_hosts"),
            Path("/etc/ssh/ssh_known_hosts2"),
        ),
        jumps=(),
        proxy_command=None,
        alive_interval=12.0,
        alive_count=3,
        connect_timeout=20.0,
    )


def test_a_port_of_its_own_is_part_of_the_name_a_key_stands_under() -> None:
    assert parse("port 2222").key_name == "[lab3.campus.edu]:2222"
    assert parse("port 2222", "hostkeyalias lab3").key_name == "lab3"
    assert parse("hostkeyalias none").key_name == "lab3.campus.edu"


@pytest.mark.parametrize("said", ["none", "/home/anna/.ssh/known_hosts none"])
def test_a_configuration_that_does_not_check_host_keys_is_refused(said: str) -> None:
    with pytest.raises(HostKeyError, match="UserKnownHostsFile none"):
        parse(f"userknownhostsfile {said}")


def test_the_machine_s_own_list_may_be_none() -> None:
    assert parse("globalknownhostsfile none").known_hosts == (
        Path("/home/anna/.ssh/known_hosts"),
        Path("/home/anna/.ssh/known_hosts2"),
    )


@pytest.mark.parametrize(
    ("line", "jumps"),
    [
        ("proxyjump none", ()),
        ("proxyjump gate", ("gate",)),
        ("proxyjump anna@gate:2222,inner", ("anna@gate:2222", "inner")),
    ],
)
def test_jump_hosts_are_read_in_their_order(line: str, jumps: tuple[str, ...]) -> None:
    assert parse(line).jumps == jumps


def test_tokens_of_a_proxy_command_are_filled_in() -> None:
    target = parse("proxycommand nc -x 100%% %h %p %r@%n %q", "port 2222")
    assert target.proxy_command == "nc -x 100% lab3.campus.edu 2222 anna@lab3 %q"
    assert parse("proxycommand none").proxy_command is None


def test_tokens_and_variables_in_file_names_are_filled_in() -> None:
    """OpenSSH prints these as they were written."""
    target = parse(
        "identityfile ~/.ssh/%h_%r",
        "identityfile %d/keys/%u",
        "identityfile ${KEYS}/lab",
        "identityfile ${UNKNOWN}/lab",
        "identityfile none",
        "certificatefile ~/.ssh/lab-cert.pub",
        environ={"KEYS": "/keys"},
    )
    assert target.identities == (
        Path("/home/anna/.ssh/lab3.campus.edu_anna"),
        Path("/home/anna/keys/anna"),
        Path("/keys/lab"),
        Path("${UNKNOWN}/lab"),
    )
    assert target.certificates == (Path("/home/anna/.ssh/lab-cert.pub"),)


@pytest.mark.parametrize(
    ("said", "agent"),
    [
        ("SSH_AUTH_SOCK", None),
        ("none", ""),
        ("~/.agent", "/home/anna/.agent"),
        ("$OTHER_AGENT", "/run/other"),
        ("$NO_AGENT", ""),
        ("${OTHER_AGENT}", "/run/other"),
        ("/run/%u/agent", "/run/anna/agent"),
    ],
)
def test_the_agent_is_found_where_it_is_said_to_be(said: str, agent: str | None) -> None:
    assert parse(f"identityagent {said}", environ={"OTHER_AGENT": "/run/other"}).agent == agent


@pytest.mark.parametrize(
    ("line", "interval"),
    [("serveraliveinterval 0", 12), ("serveraliveinterval 5", 5), ("serveraliveinterval 300", 12)],
)
def test_a_peer_that_is_gone_is_noticed_within_a_minute_whatever_is_configured(line: str, interval: float) -> None:
    target = parse(line, "serveralivecountmax 100")
    assert target.alive_interval == interval
    assert target.alive_interval * (target.alive_count + 1) <= 60


@pytest.mark.parametrize(("line", "limit"), [("none", 20), ("10", 10), ("0", 20), ("86400", 60)])
def test_connecting_is_bounded(line: str, limit: float) -> None:
    assert parse(f"connecttimeout {line}").connect_timeout == limit


def test_a_key_of_its_own_is_the_only_one() -> None:
    target = sshconfig.with_identity(parse("identityagent /run/agent"), Path("/keys/lab"))
    assert target.identities == (Path("/keys/lab"),)
    assert target.identities_only
    assert target.agent == ""
    assert sshconfig.with_identity(parse(), None) == parse()
    assert replace(target, identities=()).certificates == ()


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("gate", (None, "gate", None)),
        ("anna@gate", ("anna", "gate", None)),
        ("gate:2222", (None, "gate", 2222)),
        ("anna@gate:2222", ("anna", "gate", 2222)),
        ("ssh://anna@gate:2222", ("anna", "gate", 2222)),
        ("anna@campus@gate", ("anna@campus", "gate", None)),
        ("[fe80::1]:2222", (None, "fe80::1", 2222)),
        ("anna@[fe80::1]", ("anna", "fe80::1", None)),
        ("fe80::1", (None, "fe80::1", None)),
    ],
)
def test_a_jump_host_is_taken_apart(text: str, parts: tuple[str | None, str, int | None]) -> None:
    assert split_host(text) == parts


def test_files_that_are_not_there_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "there").touch()
    assert sshconfig.existing([tmp_path / "there", tmp_path / "gone", tmp_path]) == [tmp_path / "there"]
