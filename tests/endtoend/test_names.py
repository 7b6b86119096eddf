"""Nothing leaves its room: no name, link, file or setting from a user or a job is ever anything but data."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from pathlib import Path

import pytest

from tests.endtoend.site import Site, name_of

pytestmark = pytest.mark.sshd

TEXTS = [
    "two words",
    " blank ",
    'it\'s "quoted"',
    "line\nbreak",
    "#EOS",
    ";touch pwned;",
    "$(touch pwned)",
    "`touch pwned`",
    "-rf",
    "--",
    "*",
    "~",
    "back\\slash\\n",
    "\x1b]0;pwned\x07",
    "ümläut",
    "%s%n",
    "n" * 255,
]
BYTES = [*(text.encode() for text in TEXTS), b"\xff\xfe", b"\xe9t\xe9\n\x80"]

INPUTS = """\
import hashlib, json
found = {}
for place, folders, names in os.walk(b'input'):
    for name in names:
        path = os.path.join(place, name)
        found[path.decode('latin-1')] = hashlib.sha256(open(path, 'rb').read()).hexdigest()
print(ascii(sorted(found)))
wanted = json.load(open('distribute_save/../input/wanted.json'))
found.pop('input/wanted.json')
assert found == wanted, (found, wanted)
values = json.loads(os.environ['VALUES'])
assert {key: os.environ[key] for key in values} == values, os.environ
assert not [name for name in os.listdir('.') if 'pwned' in name]
save('values', json.dumps(values).encode())
"""


@pytest.mark.parametrize("connection", ["ssh", "local"])
def test_names_and_settings_of_a_user_arrive_as_they_are_and_nothing_of_them_is_executed(
    site: Site, connection: str
) -> None:
    room = site.node("lab1", slots=2).room if connection == "ssh" else site.local(slots=2)
    files = site.folder / "files"
    tree = files / "tree"
    tree.mkdir(parents=True)
    wanted, listed = {}, []
    for number, alias in enumerate(TEXTS):
        path = files / f"file{number}"
        path.write_bytes(alias.encode() * 3)
        listed.append({"path": str(path), "alias": alias})
        wanted["input/" + alias.encode().decode("latin-1")] = hashlib.sha256(path.read_bytes()).hexdigest()
    for name in BYTES:
        place = os.path.join(os.fsencode(tree), name, b"deep")
        os.makedirs(place)
        with open(os.path.join(place, name), "wb") as file:
            file.write(name)
        path = b"/".join([b"input", b"a tree; $(touch pwned)", name, b"deep", name])
        wanted[path.decode("latin-1")] = hashlib.sha256(name).hexdigest()
    (files / "wanted.json").write_text(json.dumps(wanted))
    listed += [str(files / "wanted.json"), {"path": str(tree), "alias": "a tree; $(touch pwned)"}]
    values = {f"VALUE_{number}": text for number, text in enumerate(TEXTS)} | {"EMPTY": ""}
    env = values | {"VALUES": json.dumps(values)}
    # Half of the files come with the batch, half with the job; both ways end in the same folder.
    job = {"required_files": listed[::2], "env": env}
    path = site.batch({"job": job, "a+b=c,d@e": job}, run=INPUTS, init=listed[1::2])
    command = site.start("run", path)
    assert command.end() == 0, command.said() + site.report()
    for name in ("job", "a+b=c,d@e"):
        assert json.loads((site.results(name) / "values").read_text()) == values
        assert site.record(name)["env"] == env
    assert not [*site.folder.rglob("pwned"), *room.parent.rglob("pwned")]
    site.assert_clean(room)


MESS = """\
names = %r
outside = SITE + '/outside'
for number, name in enumerate(names):
    place = os.path.join(os.fsencode(SAVE), b'folder' + name[:249])
    os.mkdir(place)
    with open(os.path.join(place, name), 'wb') as file:
        file.write(name)
os.symlink('/etc/passwd', SAVE + '/absolute')
os.symlink('../../../../../../etc', SAVE + '/climbing')
os.symlink(outside, SAVE + '/outside')
os.symlink('nowhere', SAVE + '/dangling')
os.symlink('loop', SAVE + '/loop')
os.symlink('.', SAVE + '/here')
os.symlink(b'\\xff\\n', os.fsencode(SAVE) + b'/odd target')
os.mkfifo(SAVE + '/pipe')
save('setuid', b'#!/bin/sh')
os.chmod(SAVE + '/setuid', 0o7777)
os.mkdir(SAVE + '/empty')
save('job.json', b'mine')
save('job_output.txt', b'mine too')
# And for whoever comes next in this slot:
os.remove('run.py')
os.symlink(outside + '/victim', 'run.py')
os.rename('input', 'input.old')
os.symlink(outside, 'input')
"""
HIJACK = """\
os.rmdir(SAVE)
os.symlink(SITE + '/outside', SAVE)
"""


@pytest.mark.parametrize("connection", ["ssh", "local"])
def test_whatever_a_job_leaves_is_stored_as_data_and_nothing_outside_its_folder_is_read_or_changed(
    site: Site, connection: str
) -> None:
    room = site.node("lab1").room if connection == "ssh" else site.local()
    outside = site.public / "outside"
    outside.mkdir()
    (outside / "victim").write_text("precious")
    site.do("run", site.batch({"job": MESS % (BYTES,), "hijack": HIJACK, "last": {}}))

    folder = os.fsencode(site.results("job"))
    for name in BYTES:
        with open(os.path.join(folder, b"folder" + name[:249], name), "rb") as file:
            assert file.read() == name
    record = site.record("job")
    links = {name_of(row): name_of(row, "target") for row in record["links"]}
    assert links == {
        b"absolute": b"/etc/passwd",
        b"climbing": b"../../../../../../etc",
        b"outside": os.fsencode(outside),
        b"dangling": b"nowhere",
        b"loop": b"loop",
        b"here": b".",
        b"odd target": b"\xff\n",
    }
    assert {name: os.readlink(os.path.join(folder, name)) for name in links} == links
    assert [(row["path"], row["reason"]) for row in record["skipped"]] == [("pipe", "a named pipe")]
    assert not os.path.lexists(os.path.join(folder, b"pipe"))
    mode = (site.results("job") / "setuid").stat().st_mode
    assert stat.S_IMODE(mode) & 0o7022 == 0
    assert (site.results("job") / "empty").is_dir()
    assert (site.results("job") / "job.json.saved").read_text() == "mine"
    assert (site.results("job") / "job_output.txt.saved").read_text() == "mine too"

    assert not (site.results("hijack") / "victim").exists()
    assert site.record("hijack")["skipped"][0]["reason"].startswith("distribute_save is no folder")
    assert (site.results("last") / "result").read_text() == "last"
    assert [path.name for path in outside.iterdir()] == ["victim"]
    assert (outside / "victim").read_text() == "precious"
    site.assert_clean(room)


def test_ten_thousand_small_files_of_one_job_all_arrive(site: Site) -> None:
    room = site.node("lab1").room
    run = """
for number in range(10_000):
    if number % 100 == 0:
        os.mkdir(f'{SAVE}/{number // 100:02d}')
    save(f'{number // 100:02d}/{number:05d}', b'%d' % number * (number % 50))
"""
    site.do("run", site.batch(["job"], run=run))
    record = site.record("job")
    assert len(record["files"]) == 10_001  # and what it printed
    for number in (0, 1, 4_999, 9_999):
        path = site.results("job") / f"{number // 100:02d}" / f"{number:05d}"
        assert path.read_bytes() == b"%d" % number * (number % 50)
    site.assert_clean(room)


def test_what_people_see_of_names_and_output_drives_no_terminal(site: Site) -> None:
    """Escape sequences in what a job or a build prints come out as data, in every view."""
    site.local()
    odd = "'\\x1b]0;pwned\\x07\\x1b[31mred\\nlast \\x1b[2J\\x9b line'"
    site.do("run", site.batch({"job": f"sys.exit({odd})\n"}), code=1)
    for arguments in (["status"], ["status", "ns/b"], ["explain", "ns/b"], ["explain", "ns/b", "job"]):
        shown = site.do(*arguments)
        assert "\x1b" not in shown.answered() + shown.said()
        assert "\x9b" not in shown.answered() + shown.said()
    assert "last" in site.reason("job")
    assert Path(site.results("job") / "job_output.txt").read_bytes().count(b"\x1b") == 3
