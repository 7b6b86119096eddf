"""Accounts as people have them: other login shells, and start-up files that print, leave, or wait."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from distribute_ssh.errors import NodeError, UnreachableError
from distribute_ssh.node import connection, session
from tests.support import processes
from tests.support.accounts import Account, account
from tests.support.lab import Lab
from tests.support.resident import job, new_token, resident
from tests.support.sshd import host_block
from tests.support.wait import until

pytestmark = [pytest.mark.sshd, pytest.mark.root]

SHELLS = ["bash", "dash", "fish", "tcsh"]
RC = {"bash": ".bashrc", "dash": ".profile", "fish": ".config/fish/config.fish", "tcsh": ".tcshrc"}


@dataclass(frozen=True)
class Person:
    """Somebody with an account on the node lab1."""

    account: Account
    lab: Lab
    shell: str

    @property
    def scratch(self) -> Path:
        """A folder they may write."""
        return self.account.home

    def start_up(self, text: str) -> None:
        """Put a line into the file that their shell reads at each login."""
        self.account.write(RC[self.shell], text + "\n")


@pytest.fixture
def person(request: pytest.FixtureRequest, lab: Lab) -> Iterator[Person]:
    shell = getattr(request, "param", "bash")
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"left out: there is no {shell}")
    node = lab.add("lab1")
    with account(program, lab.key) as made:
        lab.block("lab1", host_block("lab1", node.sshd.port, lab.key, lab.known_hosts, user=made.name))
        yield Person(made, lab, shell)


every_shell = pytest.mark.parametrize("person", SHELLS, indirect=True)


@every_shell
async def test_every_login_shell_runs_our_scripts(person: Person) -> None:
    data = bytes(range(256)) * 50
    async with person.lab.link("lab1") as link:
        assert (await link.run("cat; id -un >&2; exit 7", stdin=data)).stdout == data
        ended = await link.run("id -un >&2; exit 7")
        assert (ended.status, ended.stderr) == (7, f"{person.account.name}\n".encode())


@every_shell
async def test_every_login_shell_runs_attempts_and_lets_them_be_killed(person: Person) -> None:
    async with person.lab.link("lab1") as link, resident(link, person.scratch) as here:
        assert await here.run(job("exit 42")) == "ended 42"
        token = new_token()
        await here.start(token, job("setsid sleep 600 & exec sleep 600", token=token))
        await here.event("started", token)
        assert await here.kill(token) == "0"
        assert await here.look(token) == "ended 143"
        assert await here.drop(token) == []


@every_shell
async def test_files_of_every_account_can_be_reached(person: Person) -> None:
    async with person.lab.link("lab1") as link, link.files() as files:
        file = await files.open_write(b"made", fresh=True)
        await file.write(0, b"content")
        await file.close()
    assert (person.account.home / "made").read_bytes() == b"content"


@every_shell
async def test_a_command_past_its_time_is_ended_in_every_account(person: Person) -> None:
    """Here sshd passes signals on, as it does not for root."""
    async with person.lab.link("lab1") as link:
        began = time.monotonic()
        with pytest.raises(UnreachableError):
            await link.run("sh -c 'sleep 603; true'; true", limit=0.5)
        assert time.monotonic() - began < 10
        await until(lambda: not processes.running("sleep", "603"), "nothing is left")
        assert (await link.run("true")).ok


@pytest.mark.parametrize("person", ["bash", "fish", "tcsh"], indirect=True)
@pytest.mark.parametrize("noise", ["echo Welcome to the lab", "printf no-newline", "echo to stderr > /dev/stderr"])
async def test_what_a_start_up_file_prints_is_passed_over(person: Person, noise: str) -> None:
    person.start_up(noise)
    async with person.lab.link("lab1") as link:
        ended = await link.run("echo mine; exit 3")
        assert (ended.status, ended.stdout) == (3, b"mine\n")
        async with resident(link, person.scratch) as here:
            assert await here.run(job("exit 42")) == "ended 42"


async def test_much_noise_is_passed_over_too(person: Person) -> None:
    person.start_up("i=0; while [ $i -lt 20000 ]; do echo lots and lots of words; i=$((i + 1)); done")
    async with person.lab.link("lab1") as link:
        assert (await link.run("echo mine")).stdout == b"mine\n"


async def test_noise_that_looks_like_ours_is_passed_over(person: Person) -> None:
    person.start_up("echo '#EOS'; echo 0123456789abcdef hello 1 boot 1 /etc")
    async with person.lab.link("lab1") as link:
        assert (await link.run("echo mine")).stdout == b"mine\n"
        async with resident(link, person.scratch) as here:
            assert here.room.parent == person.scratch


async def test_noise_breaks_sftp_alone_and_the_message_names_the_cure(person: Person) -> None:
    """OpenSSH's separate sftp-server is started by the login shell, and its first bytes are then not its own."""
    person.lab.nodes["lab1"].sshd.stop()
    separate = [
        path for path in ("/usr/lib/openssh/sftp-server", "/usr/libexec/openssh/sftp-server") if os.path.exists(path)
    ]
    person.lab.nodes["lab1"].sshd.sftp = separate[0] if separate else "internal-sftp"
    person.lab.nodes["lab1"].sshd.start()
    person.start_up("echo Welcome to the lab, where we print long lines")
    async with person.lab.link("lab1") as link:
        if separate:
            with pytest.raises(NodeError, match="internal-sftp"):
                async with link.files() as files:
                    await files.stat(b".")
        assert (await link.run("echo mine")).stdout == b"mine\n"


@pytest.mark.parametrize(
    ("person", "leaves"),
    [("bash", "exit 0"), ("bash", "exec true"), ("fish", "exec true"), ("tcsh", "exec echo bye")],
    indirect=["person"],
)
async def test_a_start_up_file_that_leaves_is_named(person: Person, leaves: str) -> None:
    person.start_up(leaves)
    async with person.lab.link("lab1") as link:
        for _ in range(5):
            with pytest.raises(NodeError, match="start-up file"):
                await link.run("echo mine")
        with pytest.raises(NodeError, match="start-up file"):
            async with resident(link, person.scratch):
                pass


@pytest.mark.parametrize("waits", ["sleep 604", "read -r line", "cat > /dev/null"])
async def test_a_start_up_file_that_waits_is_named_in_bounded_time(
    person: Person, waits: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "BEGIN_LIMIT", 2.0)
    monkeypatch.setattr(session, "TERM_LIMIT", 0.3)
    person.start_up(waits)
    async with person.lab.link("lab1") as link:
        began = time.monotonic()
        with pytest.raises(NodeError, match="start-up file"):
            async with resident(link, person.scratch):
                pass
        assert time.monotonic() - began < 15


async def test_a_start_up_file_that_waits_does_not_use_up_the_sessions(
    person: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "TERM_LIMIT", 0.3)
    person.start_up("[ -e ~/awake ] || sleep 604")
    async with person.lab.link("lab1") as link:
        late = await asyncio.gather(*(link.run("true", limit=0.5) for _ in range(12)), return_exceptions=True)
        assert all(isinstance(each, NodeError) for each in late)
        await until(lambda: not processes.running("sleep", "604"), "nothing is left")
        (person.account.home / "awake").touch()
        assert (await link.run("true")).ok


async def test_variables_of_a_start_up_file_reach_the_job(person: Person) -> None:
    """Where a module or a licence server is set there, jobs find it."""
    person.start_up("export LICENCE=here")
    async with person.lab.link("lab1") as link, resident(link, person.scratch) as here:
        token = new_token()
        await here.run(job('echo "$LICENCE"'), token)
        async with link.files() as files:
            file = await files.open_read(os.fsencode(here.home(token) / "output"))
            assert await file.read(0, 100) == b"here\n"
            await file.close()


async def test_what_looks_like_our_variables_in_an_account_is_harmless(person: Person) -> None:
    person.start_up(
        "export nonce=a boot=b scratch=/etc lib=/etc slot=/ save=1 DISTRIBUTE_NONCE=c DISTRIBUTE_BOOT=d IFS=x"
    )
    async with person.lab.link("lab1") as link, resident(link, person.scratch) as here:
        assert here.room.parent == person.scratch
        token = new_token()
        assert await here.run(job("env", token=token), token) == "ended 0"
        said = (here.home(token) / "output").read_text().splitlines()
        assert "DISTRIBUTE_NONCE" not in " ".join(said)
        assert [line for line in said if line.startswith("nonce=")] in ([], ["nonce=a"])
