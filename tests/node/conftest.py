"""Both kinds of link, under one name: what is promised of a link is promised of each."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from distribute_ssh.node.link import Link
from distribute_ssh.node.local import LocalLink
from tests.support.lab import Lab

BOTH = [pytest.param("local", id="local"), pytest.param("ssh", id="ssh", marks=pytest.mark.sshd)]


@pytest.fixture(params=BOTH)
async def link(request: pytest.FixtureRequest) -> AsyncIterator[Link]:
    """A link to this machine, without and with sshd in between."""
    if request.param == "local":
        opened: Link = LocalLink("here")
        yield opened
        await opened.close()
        return
    lab = request.getfixturevalue("shared_lab")
    connector = lab.connector()
    opened = await connector.open("lab1", "lab1")
    yield opened
    await opened.close()
    await connector.close()


BASH, BUSYBOX = Path("/usr/bin/bash"), Path("/usr/bin/busybox")
SHELLS = [
    *BOTH,
    *(
        pytest.param(program.name, id=f"{program.name} as sh", marks=[pytest.mark.sshd, pytest.mark.root])
        for program in (BASH, BUSYBOX)
    ),
]


@pytest.fixture(scope="session")
def shells_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Nodes that differ in their /bin/sh: each login gets a view of the file system of its own."""
    made = Lab(tmp_path_factory.mktemp("shells") / "lab")
    for program in (BASH, BUSYBOX):
        login = made.folder / f"login-{program.name}"
        swap = f"mount --bind {program} {os.path.realpath('/bin/sh')}"
        login.write_text(f"exec unshare -m {BASH} -c '{swap} && eval \"$SSH_ORIGINAL_COMMAND\"'\n")
        made.add(program.name, [f"ForceCommand {BASH} {login}"])
    yield made
    made.close()


@pytest.fixture(params=SHELLS)
async def shell_link(request: pytest.FixtureRequest) -> AsyncIterator[Link]:
    """A link to this machine with its own /bin/sh, and with others."""
    if request.param == "local":
        yield LocalLink("here")
        return
    lab = request.getfixturevalue("shared_lab" if request.param == "ssh" else "shells_lab")
    async with lab.link("lab1" if request.param == "ssh" else request.param) as opened:
        yield opened


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    where = tmp_path / "disk"
    where.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k,mode=0755", "tmpfs", where], check=True)
    yield where
    subprocess.run(["umount", "-l", where], check=True)


@pytest.fixture
def full_disk(small_disk: Path) -> Path:
    """The same without a free block."""
    fill(small_disk)
    return small_disk


def fill(where: Path) -> Path:
    """Use up every free block of a file system; the file that does so."""
    ballast = where / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    return ballast
