"""The users of a head: our block of authorized_keys, and not a byte of the rest."""

from __future__ import annotations

import json
import os
import shlex
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from distribute_ssh.errors import NoMatchError, UsageError
from distribute_ssh.head.users import BEGIN, END, Keys, User, check_user, read_key
from distribute_ssh.model.actor import Role
from tests.cli.conftest import Call, call, home
from tests.support.sshd import fingerprint, make_key, public

__all__ = ["call", "home"]

GATEWAY = ["/opt/a b/python", "-I", "-m", "distribute_ssh", "gateway"]
REST = b'# mine\r\nssh-rsa AAAA somebody\n\n\tfrom="*" ssh-ed25519 BBBB \xff\xfe no line end'


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path / "ssh" / "authorized_keys", GATEWAY)


def a_key(tmp_path: Path, name: str = "id", kind: str = "ed25519") -> Path:
    key = make_key(tmp_path / name, kind)
    return key.with_name(key.name + ".pub")


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
def test_a_user_is_one_line_with_restrict_and_a_forced_command(keys: Keys, tmp_path: Path, kind: str) -> None:
    file = a_key(tmp_path, kind=kind)
    keys.add(User("ana", read_key(file)))
    begin, line, end = keys.path.read_text().splitlines()
    command = line.partition('command="')[2].partition('" ')[0]
    assert line.startswith('restrict,command="')
    assert shlex.split(command) == [*GATEWAY, "--user", "ana", "--role", "submitter"]
    assert line.endswith(f'" {public(tmp_path / "id")} ana')
    assert (begin.encode() + b"\n", end.encode() + b"\n") == (BEGIN, END)
    assert keys.path.stat().st_mode & 0o777 == 0o600
    assert [(each.name, each.key.fingerprint) for each in keys.users()] == [("ana", fingerprint(tmp_path / "id"))]


def test_nothing_else_in_the_file_changes_by_a_byte(keys: Keys, tmp_path: Path) -> None:
    keys.path.parent.mkdir()
    keys.path.write_bytes(REST)
    keys.add(User("ana", read_key(a_key(tmp_path, "a"))))
    keys.add(User("bob", read_key(a_key(tmp_path, "b")), Role.ADMIN))
    assert keys.path.read_bytes().endswith(END + REST)
    keys.remove("ana")
    assert [each.name for each in keys.users()] == ["bob"]
    keys.remove("bob")
    assert keys.path.read_bytes() == REST
    assert [path.name for path in keys.path.parent.iterdir()] == ["authorized_keys"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "there").write_bytes(REST)
    (tmp_path / "link").symlink_to("there")
    Keys(tmp_path / "link", GATEWAY).add(User("ana", read_key(a_key(tmp_path))))
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "there").read_bytes().endswith(END + REST)


@pytest.mark.root
def test_root_leaves_the_file_to_the_account_whose_it_is(keys: Keys, tmp_path: Path) -> None:
    keys.path.parent.mkdir()
    os.chown(keys.path.parent, 65534, 65534)
    for name in ("made", "replaced"):
        keys.add(User(name, read_key(a_key(tmp_path, name))))
        assert (keys.path.stat().st_uid, keys.path.stat().st_gid) == (65534, 65534)


def test_people_who_are_let_in_at_once_are_all_in(keys: Keys, tmp_path: Path) -> None:
    names = [f"user{n}" for n in range(8)]
    users = [User(name, read_key(a_key(tmp_path, name))) for name in names]
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda user: Keys(keys.path, GATEWAY).add(user), users))
    assert sorted(user.name for user in keys.users()) == names


def test_somebody_may_have_several_keys_and_a_key_is_one_person_s(keys: Keys, tmp_path: Path) -> None:
    first, second = read_key(a_key(tmp_path, "a")), read_key(a_key(tmp_path, "b"))
    keys.add(User("ana", first))
    keys.add(User("ana", second))
    with pytest.raises(UsageError, match="a key of ana already"):
        keys.add(User("bob", first))
    with pytest.raises(UsageError, match="more than case"):
        keys.add(User("Ana", read_key(a_key(tmp_path, "c"))))
    with pytest.raises(UsageError, match="ana is there, as submitter"):
        keys.add(User("ana", read_key(a_key(tmp_path, "d")), Role.ADMIN))
    assert len(keys.remove("ana")) == 2
    with pytest.raises(NoMatchError, match="no user"):
        keys.remove("ana")


def test_marks_that_somebody_moved_are_left_alone(keys: Keys, tmp_path: Path) -> None:
    keys.path.parent.mkdir()
    for text in (BEGIN, END + BEGIN, BEGIN + b"something\n" + END, BEGIN + END + BEGIN + END):
        keys.path.write_bytes(text)
        with pytest.raises(UsageError):
            keys.add(User("ana", read_key(tmp_path / "id.pub" if (tmp_path / "id.pub").exists() else a_key(tmp_path))))
        assert keys.path.read_bytes() == text


@pytest.mark.parametrize(
    "name",
    ["", "..", "a/b", "../x", "a b", "-rf", "a\n", 'a"', "a'b", "$(id)", "ä", "²", "x" * 33, "0day", "a..b", "a.",
     "distribute", "Owner", "@owner"],
)  # fmt: skip
def test_what_may_be_a_user_s_name(name: str) -> None:
    with pytest.raises(UsageError):
        check_user(name)


@pytest.mark.parametrize(
    "text",
    [
        "", "# nothing\n", "ssh-ed25519", "ssh-ed25519 notbase64!", "ssh-ed25519 AAAA", "ssh-dss AAAAB3NzaC1kc3M=",
        "-----BEGIN OPENSSH PRIVATE KEY-----\nx\n", 'command="sh" KEY', "from=\"*\",restrict KEY", "KEY\nKEY",
        "ssh-rsa REST", "x" * 100_000, "\xff\xfe", "no-pty KEY", "cert-authority KEY",
    ],
)  # fmt: skip
def test_a_file_that_is_not_one_plain_public_key_is_refused(tmp_path: Path, text: str) -> None:
    key = a_key(tmp_path).read_text().strip()
    file = tmp_path / "given"
    file.write_text(text.replace("KEY", key).replace("REST", key.split()[1]))
    with pytest.raises(UsageError):
        read_key(file)


def test_a_short_rsa_key_is_refused(tmp_path: Path) -> None:
    import subprocess

    subprocess.run(["ssh-keygen", "-q", "-t", "rsa", "-b", "1024", "-N", "", "-f", tmp_path / "id"], check=True)
    with pytest.raises(UsageError, match="too short"):
        read_key(tmp_path / "id.pub")


def test_the_commands_add_list_and_remove(home: Path, call: Call, tmp_path: Path) -> None:
    file = tmp_path / "authorized_keys"
    ana, lab = a_key(tmp_path, "ana"), a_key(tmp_path, "lab")
    there = ["--authorized-keys", file]
    assert call("users", "add", "ana", ana, *there).code == 0
    assert call("users", "add", "desk", lab, "--node", "LAB1", *there).code == 0
    assert call("users", "add", "x", ana, "--node", "nosuch", *there).code == 3
    assert call("users", "add", "x", ana, "--node", "lab1", "--admin", *there).code == 2
    assert f"--home={home / 'state'}" in file.read_text()
    assert f"--inventory={home / 'inventory.yaml'}" in file.read_text()
    found = call("users", "list", "--json", *there).json["users"]
    assert [(each["name"], each["role"], each["node"]) for each in found] == [
        ("ana", "submitter", None),
        ("desk", "node", "lab1"),
    ]
    assert "SHA256:" in call("users", "list", *there).out
    assert json.loads(call("users", "remove", "ana", "--json", *there).out)["removed"][0]["name"] == "ana"
    assert call("users", "list", "-q", *there).out == "desk\n"
    assert call("users", "remove", "ana", *there).code == 3


def test_a_key_that_is_let_in_further_down_as_well_is_told(home: Path, call: Call, tmp_path: Path) -> None:
    file = tmp_path / "authorized_keys"
    ana = a_key(tmp_path, "ana")
    file.write_text(ana.read_text())
    assert "a second time" in call("users", "add", "ana", ana, "--authorized-keys", file).err


def test_who_lets_others_in_where_this_machine_is_a_node_is_warned(home: Path, call: Call, tmp_path: Path) -> None:
    there = ["--authorized-keys", tmp_path / "authorized_keys"]
    ana, eva, desk = (a_key(tmp_path, name) for name in ("ana", "eva", "desk"))
    warning = "jobs on here run as this account, and can do whatever it can"
    assert warning in call("users", "add", "ana", ana, "-q", *there).err
    assert warning not in call("users", "add", "eva", eva, "--admin", *there).err
    assert warning not in call("users", "add", "desk", desk, "--node", "lab1", *there).err
    inventory = home / "inventory.yaml"
    inventory.write_text(inventory.read_text().replace("connection: local", "connection: local, enabled: false"))
    assert warning not in call("users", "add", "ana", a_key(tmp_path, "second"), *there).err
