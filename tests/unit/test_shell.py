"""The scripts of builds and jobs, run by a real shell: what lies where, what is copied, and what no name can do."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distribute_ssh.model.job import Input
from distribute_ssh.node.shell import build_script, job_script

BATCH, TOKEN = "testqueue-batch1", "testqueue-job001"
PYTHON = sys.executable
SLOT = f"batches/{BATCH}/slot-0"
SHELLS = [shell for shell in (["dash"], ["bash", "--posix"], ["busybox", "sh"]) if shutil.which(shell[0])]
HOSTILE = [
    "with space",
    "'single' \"double\"",
    "$(touch owned) `touch owned` ${HOME}",
    "; touch owned; #",
    "-rf",
    "--",
    "new\nline\n",
    "*",
    "~",
    "back\\slash",
    "%s%n\\0101",
    "é\udcff\udce9",
    "x" * 255,
    "& | < > ( ) { } ! ^ = \t",
]


class Room:
    """Our folder on a node, as the wrapper finds it."""

    def __init__(self, folder: Path, shell: list[str]) -> None:
        self.folder = folder
        self.shell = shell
        for each in ("files", f"attempts/{TOKEN}"):
            (folder / each).mkdir(parents=True)

    def put(self, data: bytes, alias: str = "file", *, executable: bool = False) -> Input:
        """An input that lies on the node."""
        sha256 = hashlib.sha256(data).hexdigest()
        (self.folder / "files" / sha256).write_bytes(data)
        (self.folder / "files" / sha256).chmod(0o600)
        return Input(alias, sha256, len(data), executable=executable)

    def put_tree(self, tree: Path, alias: str) -> Input:
        """A folder as an input."""
        packed = self.folder / "packed"
        with tarfile.open(packed, "w") as tar:
            tar.add(tree, arcname=".")
        item = self.put(packed.read_bytes(), alias)
        packed.unlink()
        return Input(alias, item.sha256, item.size, kind="tree")

    def run(self, script: str, *functions: str) -> subprocess.CompletedProcess[bytes]:
        """Do as the wrapper does: source it, and call its functions in turn."""
        path = self.folder / "attempts" / TOKEN / "run.sh"
        path.write_bytes(script.encode("utf-8", "surrogateescape"))
        calls = " && ".join(f"( {name} )" for name in functions)
        words = f"slot=. save=; settle() {{ :; }}; . ./attempts/{TOKEN}/run.sh; {calls}"
        return subprocess.run([*self.shell, "-c", words], cwd=self.folder, capture_output=True, check=False, timeout=60)

    def build(
        self,
        *init: Input,
        shared: bool = False,
        program: str = "",
        python: str = PYTHON,
        env: Mapping[str, str] | None = None,
    ) -> bytes:
        """Build, which is to work; what it printed."""
        main = self.put(program.encode())
        script = build_script(batch_token=BATCH, script=main, init=init, shared=shared, python=python, env=env or {})
        ran = self.run(script, "stage", "payload", "settle")
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    def job(
        self,
        *inputs: Input,
        init: tuple[Input, ...] = (),
        slot: int = 0,
        program: str = "",
        env: Mapping[str, str] | None = None,
    ) -> bytes:
        """Run a job, which is to work; what it printed."""
        shutil.rmtree(self.folder / "attempts" / TOKEN)
        (self.folder / "attempts" / TOKEN).mkdir()
        script = job_script(
            token=TOKEN, batch_token=BATCH, slot=slot, script=self.put(program.encode()), init=init, inputs=inputs,
            cores=3, python=PYTHON, env=env or {},
        )  # fmt: skip
        ran = self.run(script, "stage", "payload")
        assert ran.returncode == 0, ran.stderr
        return ran.stdout


@pytest.fixture(params=SHELLS, ids=lambda shell: shell[0])
def room(request: pytest.FixtureRequest, tmp_path: Path) -> Room:
    return Room(tmp_path / "room", request.param)


def below(folder: Path) -> dict[bytes, bytes]:
    """Every file below a folder, by its name there."""
    found = {}
    for place, _, names in os.walk(os.fsencode(folder)):
        for name in names:
            with open(os.path.join(place, name), "rb") as file:
                found[os.path.relpath(os.path.join(place, name), os.fsencode(folder))] = file.read()
    return found


def test_a_build_finds_its_files_and_runs_in_its_slot(room: Room) -> None:
    program = "import os, sys; print(os.getcwd(), sys.argv, sorted(os.listdir()), open('initial_files/a').read())"
    said = room.build(room.put(b"one", "a"), program=program).decode()
    assert said == (
        f"{room.folder}/{SLOT} ['build.py'] ['build.py', 'distribute_save', 'initial_files', 'input'] one\n"
    )
    assert (room.folder / SLOT / "input" / "a").read_bytes() == b"one"


def test_a_job_finds_its_files_its_cores_and_what_the_build_made(room: Room) -> None:
    init = (room.put(b"mesh", "mesh"),)
    room.build(*init, program="open('solver', 'w').write('built')")
    look = "sorted(os.listdir('input')), os.listdir('distribute_save')"
    program = f"import os, sys; print(sys.argv, open('solver').read(), {look})"
    said = room.job(room.put(b"case", "case"), init=init, program=program).decode()
    assert said == "['run.py', '3'] built ['case', 'mesh'] []\n"


def test_every_job_begins_with_clean_folders(room: Room) -> None:
    init = (room.put(b"mesh", "mesh"),)
    room.build(*init)
    spoil = "[open(name, 'w').write('spoilt') for name in ('input/mesh', 'input/left', 'distribute_save/old')]"
    room.job(init=init, program=spoil)
    room.job(init=init)
    assert below(room.folder / SLOT / "input") == {b"mesh": b"mesh"}
    assert below(room.folder / SLOT / "distribute_save") == {}


def test_a_file_of_the_job_stands_in_the_place_of_one_of_the_build_with_its_name(room: Room) -> None:
    init = (room.put(b"from the build", "both"), room.put(b"kept", "other"))
    room.build(*init)
    room.job(room.put(b"from the job", "both"), init=init)
    assert below(room.folder / SLOT / "input") == {b"both": b"from the job", b"other": b"kept"}


def test_a_folder_and_a_file_may_replace_each_other(room: Room, tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "leaf").write_bytes(b"leaf")
    tree = room.put_tree(tmp_path / "tree", "both")
    init = (tree, room.put(b"file", "second"))
    room.build(*init)
    room.job(room.put(b"file", "both"), Input("second", tree.sha256, tree.size, kind="tree"), init=init)
    assert below(room.folder / SLOT / "input") == {b"both": b"file", b"second/leaf": b"leaf"}


def test_a_job_cannot_change_our_copy_of_an_input(room: Room) -> None:
    item = room.put(b"precious", "precious")
    room.build(item)
    spoil = "[open('input/' + name, 'w').write('x') for name in ('precious', 'again')]"
    room.job(room.put(b"precious", "again"), init=(item,), program=spoil)
    assert (room.folder / "files" / item.sha256).read_bytes() == b"precious"


def test_hostile_aliases_are_names_and_nothing_else(room: Room) -> None:
    init = tuple(room.put(f"init {n}".encode(), alias) for n, alias in enumerate(HOSTILE))
    inputs = tuple(room.put(f"job {n}".encode(), alias) for n, alias in enumerate(HOSTILE) if n % 2)
    room.build(*init)
    room.job(*inputs, init=init)
    wanted = {os.fsencode(alias): f"{'job' if n % 2 else 'init'} {n}".encode() for n, alias in enumerate(HOSTILE)}
    assert below(room.folder / SLOT / "input") == wanted
    assert {path.name for path in room.folder.iterdir()} == {"files", "attempts", "batches"}
    assert not list(room.folder.rglob("owned"))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    alias=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0/"), min_size=1, max_size=40).filter(
        lambda alias: alias not in (".", "..") and len(alias.encode()) <= 255
    ),
    value=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=100),
)
def test_any_alias_and_any_value_arrive_as_they_are(room: Room, alias: str, value: str) -> None:
    item = room.put(b"data", alias)
    said = room.build(item, program='printf %s "$VALUE"', python="sh", env={"VALUE": value})
    assert below(room.folder / SLOT / "initial_files") == {os.fsencode(alias): b"data"}
    assert said == os.fsencode(value)


def test_hostile_values_of_the_environment_are_values_and_nothing_else(room: Room) -> None:
    env = {f"V{n}": value for n, value in enumerate([*HOSTILE, "", "a=b", " lead and trail "])}
    program = "import os, sys; sys.stdout.buffer.write(b'\\0'.join(os.environb[b'V%d' % n] for n in range(COUNT)))"
    said = room.build(program=program.replace("COUNT", str(len(env))), env=env)
    assert said.split(b"\0") == [os.fsencode(value) for value in env.values()]
    assert not list(room.folder.rglob("owned"))


def test_a_folder_as_input_is_unpacked_under_its_alias(room: Room, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "sub" / "a b").write_bytes(b"deep")
    (tree / "tool").write_bytes(b"#!/bin/sh\n")
    (tree / "tool").chmod(0o755)
    item = room.put_tree(tree, "-my tree")
    room.build(item)
    room.job(room.put_tree(tree, "another"), init=(item,))
    found = room.folder / SLOT / "input"
    assert below(found) == {
        b"-my tree/sub/a b": b"deep",
        b"-my tree/tool": b"#!/bin/sh\n",
        b"another/sub/a b": b"deep",
        b"another/tool": b"#!/bin/sh\n",
    }
    assert os.access(found / "-my tree" / "tool", os.X_OK)


def test_what_can_be_executed_here_can_be_there(room: Room) -> None:
    init = (room.put(b"#!/bin/sh\necho built\n", "tool", executable=True), room.put(b"data", "data"))
    room.build(*init)
    job = room.put(b"#!/bin/sh\necho run\n", "other tool", executable=True)
    said = room.job(job, init=init, program="import os; os.system('input/tool; \"input/other tool\"')")
    assert said == b"built\nrun\n"
    assert not os.access(room.folder / SLOT / "input" / "data", os.X_OK)


def test_every_slot_is_a_copy_of_what_the_build_left_made_when_it_is_first_needed(room: Room) -> None:
    init = (room.put(b"mesh", "mesh"),)
    program = "import os; open('solver', 'w').write('built'); os.chmod('solver', 0o755); os.symlink('solver', 'link')"
    room.build(*init, shared=True, program=program)
    room.job(init=init, slot=0, program="open('solver', 'w').write('spoilt')")
    assert sorted(os.listdir(room.folder / "batches" / BATCH)) == ["pristine", "slot-0"]
    for slot in (1, 40):
        assert room.job(init=init, slot=slot, program="print(open('solver').read())") == b"built\n"
        folder = room.folder / f"batches/{BATCH}/slot-{slot}"
        made = {"build.py", "distribute_save", "initial_files", "input", "link", "run.py", "solver"}
        assert {path.name for path in folder.iterdir()} == made
        assert os.access(folder / "solver", os.X_OK)
        assert os.readlink(folder / "link") == "solver"
    room.job(init=init, slot=1, program="open('solver', 'w').write('mine')")
    assert room.job(init=init, slot=1, program="print(open('solver').read())") == b"mine\n", "it is made only once"
    assert sorted(os.listdir(room.folder / "batches" / BATCH)) == ["pristine", "slot-0", "slot-1", "slot-40"]


def test_a_slot_that_was_being_made_when_its_job_was_killed_is_made_anew(room: Room) -> None:
    room.build(shared=True, program="open('solver', 'w').write('built')")
    left = room.folder / f"batches/{BATCH}/slot-1.new"
    left.mkdir()
    (left / "half").touch()
    assert (
        room.job(slot=1, program="import os; print(os.path.exists('half'), open('solver').read())") == b"False built\n"
    )


def test_a_batch_that_was_built_for_one_job_at_a_time_makes_further_slots_of_the_first(room: Room) -> None:
    room.build(program="open('solver', 'w').write('built')")
    assert room.job(slot=3, program="print(open('solver').read())") == b"built\n"


def test_building_anew_begins_from_nothing(room: Room) -> None:
    room.build(program="open('old', 'w')")
    room.job(slot=1)
    room.build(shared=True)
    assert not (room.folder / SLOT / "old").exists()
    assert sorted(os.listdir(room.folder / "batches" / BATCH)) == ["pristine", "slot-0"]


def test_a_link_that_a_job_left_in_the_place_of_its_script_is_not_followed(room: Room, tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("victim")
    room.build()
    room.job(program=f"import os; os.remove('run.py'); os.symlink({str(tmp_path / 'victim')!r}, 'run.py')")
    assert room.job(program="print('mine')") == b"mine\n"
    assert (tmp_path / "victim").read_text() == "victim"


@pytest.mark.parametrize("name", ["input", "distribute_save"])
def test_a_link_that_a_job_left_in_the_place_of_a_folder_is_not_followed(room: Room, tmp_path: Path, name: str) -> None:
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "file").write_text("victim")
    room.build()
    room.job(program=f"import os; os.rename({name!r}, 'away'); os.symlink({str(tmp_path / 'victim')!r}, {name!r})")
    room.job(room.put(b"data", "data"))
    assert below(tmp_path / "victim") == {b"file": b"victim"}
    assert not (room.folder / SLOT / name).is_symlink()


def test_a_job_that_took_its_own_rights_away_does_not_stop_the_next(room: Room) -> None:
    room.build()
    names = "('distribute_save/x', 'distribute_save', 'input', 'run.py')"
    room.job(program=f"import os; os.mkdir('distribute_save/x'); [os.chmod(name, 0) for name in {names}]")
    assert room.job(program="print('next')") == b"next\n"


def test_an_input_that_is_not_there_fails_the_stage_and_nothing_runs(room: Room) -> None:
    room.build()
    main, gone = room.put(b"print('ran')"), Input("gone", "0" * 64, 4)
    for script in (
        build_script(batch_token=BATCH, script=main, init=(gone,), shared=False, python=PYTHON, env={}),
        job_script(
            token=TOKEN, batch_token=BATCH, slot=0, script=main, init=(), inputs=(gone,), cores=1, python=PYTHON, env={}
        ),
    ):
        ran = room.run(script, "stage", "payload")
        assert ran.returncode != 0
        assert ran.stdout == b""
        assert "0" * 64 in ran.stderr.decode()


def test_a_python_with_blanks_in_its_path_is_run(room: Room, tmp_path: Path) -> None:
    python = tmp_path / "my python's"
    python.write_text('#!/bin/sh\necho "$@"\n')
    python.chmod(0o755)
    script = build_script(batch_token=BATCH, script=room.put(b""), init=(), shared=False, python=str(python), env={})
    assert room.run(script, "stage", "payload").stdout == b"build.py\n"


def test_a_python_that_is_not_there_ends_with_127(room: Room) -> None:
    script = build_script(
        batch_token=BATCH, script=room.put(b""), init=(), shared=False, python="/nowhere/python3", env={}
    )
    assert room.run(script, "stage", "payload").returncode == 127


def test_the_time_a_job_has_is_told_to_it_as_a_moment(room: Room) -> None:
    room.build()
    script = job_script(
        token=TOKEN, batch_token=BATCH, slot=0, init=(), inputs=(), cores=1, python=PYTHON, env={}, time_limit=90.5,
        script=room.put(b"import os, time; print(int(os.environ['DISTRIBUTE_END_TIME']) - int(time.time()))"),
    )  # fmt: skip
    assert 80 <= int(room.run(script, "stage", "payload").stdout) <= 91
