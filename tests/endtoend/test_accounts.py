"""A node is whatever a person can log in to: any login shell, any noise at the login, any set of tools."""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.endtoend.site import Site
from tests.support.accounts import account
from tests.support.sshd import host_block

pytestmark = pytest.mark.sshd

NOISE = "echo Welcome to the lab\nprintf 'no newline \\351'\n"
RC = {
    "dash": {".profile": NOISE},
    "bash": {".bashrc": NOISE, ".profile": NOISE, ".bash_profile": NOISE},
    "fish": {".config/fish/config.fish": NOISE},
    "tcsh": {".tcshrc": "echo Welcome to the lab\nset prompt = '> '\n"},
}
# What the node of a person without root's rights leaves behind when it does its worst.
UNTIDY = """\
note('run %s %d' % (JOB, os.getuid()))
gate('all')
os.mkdir(SAVE + '/closed')
save('closed/file', b'inside')
save('unreadable', b'inside')
os.chmod(SAVE + '/closed', 0)
os.chmod(SAVE + '/unreadable', 0)
os.mkdir('input/closed')
open('input/closed/file', 'w').close()
os.chmod('input/closed', 0)
os.chmod('input', 0)
"""


@pytest.mark.root
def test_every_login_shell_does_whatever_its_start_up_files_print(site: Site) -> None:
    site.lab.add("lab1")
    sshd = site.lab.nodes["lab1"].sshd
    shells = {name: path for name in RC if (path := shutil.which(name))}
    with ExitStack() as stack:
        rooms = {}
        for name, path in shells.items():
            made = stack.enter_context(account(path, site.lab.key))
            for file, text in RC[name].items():
                made.write(file, text)
            site.lab.block(name, host_block(name, sshd.port, site.lab.key, site.lab.known_hosts, user=made.name))
            site.enter(name, scratch="~")
            rooms[name] = made.home / f"distribute-{made.home.stat().st_uid}"
        first, second = [f"{name}1" for name in shells], [f"{name}2" for name in shells]
        command = site.start("run", site.batch([*first, *second], run=UNTIDY))
        site.wait(lambda: len(site.notes("run")) == len(shells), "every account runs one of the first jobs")
        site.open("all")
        assert command.end() == 0, command.said()
        assert sorted(site.notes("build")) == sorted(shells)
        uids = {note.split()[1] for note in site.notes("run")}
        assert uids == {str(room.parent.stat().st_uid) for room in rooms.values()}
        for job in (*first, *second):
            site.record(job)
            assert (site.results(job) / "closed" / "file").read_text() == "inside"
            assert (site.results(job) / "unreadable").read_text() == "inside"
        site.assert_clean(*rooms.values())


def test_a_node_without_python_is_told_as_such(site: Site) -> None:
    tools = site.folder / "tools"
    tools.mkdir()
    for folder in ("/bin", "/usr/bin"):
        for program in Path(folder).iterdir():
            link = tools / program.name
            if not program.name.startswith("python") and not link.exists():
                link.symlink_to(program)
    site.node("lab1", env={"PATH": str(tools)})
    path = site.batch(["job"])
    assert "python3" in site.do("run", path, code=4).said()
    assert "python3" in site.do("explain", "ns/b", "job").answered()
    assert site.states() == {"job": "queued"}
    assert "python3" in site.do("run", site.batch(["job"], name="second"), code=4).said()
    assert site.states("second") == {}, "now that it is known, it is refused at once"
    assert not site.notes()
