"""The scripts of an apptainer batch, run by a real shell; a stand-in says what apptainer 1.4.5 was seen to say."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from distribute_ssh.model.job import Input
from distribute_ssh.node import container
from distribute_ssh.node.probe import Gpu

BATCH, TOKEN = "testqueue-batch1", "testqueue-job001"
SLOT = f"batches/{BATCH}/slot-0"
SHELLS = [shell for shell in (["dash"], ["bash", "--posix"], ["busybox", "sh"]) if shutil.which(shell[0])]
LIBRARY = Path(container.__file__).parent
SEEN = Path(__file__).parents[1] / "fixtures" / "apptainer"

# `exec` puts the question to the folder $ROOT in place of an image; `run` runs the image, which is a shell script.
STAND_IN = """\
#!/bin/sh
printf '%s\\n' "$*" >> "$STAND_IN/argv"
env > "$STAND_IN/env"
if [ -n "$SAYS" ]; then cat "$SAYS" >&2; exit 255; fi
echo 'INFO:    gocryptfs not found, will not be able to use gocryptfs' >&2
if [ "$1" = run ]; then
    while [ "$#" -gt 2 ]; do shift; done
    exec sh "$1" "$2"
fi
question=$(printf '%s' "$6" | sed "s| /scif| $ROOT/scif|g")
shift 7
for each; do set -- "$@" "$ROOT$each"; shift; done
sh -c "$question" look "$@" | sed "s|$ROOT||g"
"""


class Room:
    """Our folder on a node, with a stand-in for apptainer and a folder for what would be in the image."""

    def __init__(self, folder: Path, shell: list[str]) -> None:
        self.folder = folder
        self.shell = shell
        self.root = folder.parent / "root"
        self.says: Path | None = None
        self.more: dict[str, str] = {}  # of the batch's own `env`
        for each in ("files", f"attempts/{TOKEN}", "stand-in", self.root / "scif/apps/distribute/scif"):
            (folder / each).mkdir(parents=True)
        (self.root / "scif/apps/distribute/scif/runscript").touch()
        for name in ("apptainer", "singularity"):
            (folder / "stand-in" / name).write_text(STAND_IN)
            (folder / "stand-in" / name).chmod(0o755)

    def put(self, data: bytes, alias: str = "file") -> Input:
        """An input that lies on the node."""
        sha256 = hashlib.sha256(data).hexdigest()
        (self.folder / "files" / sha256).write_bytes(data)
        return Input(alias, sha256, len(data))

    @property
    def env(self) -> dict[str, str]:
        """What a script exports."""
        own = {"STAND_IN": str(self.folder / "stand-in"), "ROOT": str(self.root)}
        own["PATH"] = f"{self.folder / 'stand-in'}:/usr/bin:/bin"
        plain = own | {"DISTRIBUTE_JOB_DIR": "/x", "DISTRIBUTE_INPUT_DIR": "/x", "TMPDIR": "/x"}
        made = container.environment(plain, token=TOKEN, root=str(self.folder), program="apptainer")
        return made | self.more | ({"SAYS": str(self.says)} if self.says else {})

    def run(self, script: str) -> tuple[int, str]:
        """Do as the wrapper does; the exit status and all that was printed."""
        home = self.folder / "attempts" / TOKEN
        shutil.rmtree(home)
        home.mkdir()
        (home / "run.sh").write_text(script)
        (home / "output").touch()
        words = (
            f"lib={LIBRARY}; remark() {{ :; }}; . ./attempts/{TOKEN}/run.sh; ( stage ) || exit 99\n"
            f"( payload ) > attempts/{TOKEN}/output 2>&1; rc=$?\n"
            f'[ "$rc" = 0 ] || ( remark ) >> attempts/{TOKEN}/output 2>&1; exit "$rc"'
        )
        ran = subprocess.run([*self.shell, "-c", words], cwd=self.folder, capture_output=True, check=False, timeout=60)
        assert ran.stderr == b""
        return ran.returncode, (home / "output").read_text()

    def build(self, *init: Input, mounts: Sequence[str] = (), image: bytes = b"exit 0\n") -> tuple[int, str]:
        """Put an image in place and look into it."""
        script = container.build_script(
            token=TOKEN, batch_token=BATCH, image=self.put(image, "solver.sif"), init=init, mounts=mounts,
            program="apptainer", env=self.env,
        )  # fmt: skip
        return self.run(script)

    def job(
        self, *inputs: Input, init: Sequence[Input] = (), mounts: Sequence[str] = (), gpus: Sequence[Gpu] = ()
    ) -> tuple[int, str]:
        """Run a job in the image."""
        script = container.job_script(
            token=TOKEN, batch_token=BATCH, slot=0, init=init, inputs=inputs, mounts=mounts, cores=3, gpus=gpus,
            program="apptainer", env=self.env,
        )  # fmt: skip
        return self.run(script)

    def argv(self) -> list[str]:
        """What the stand-in was called with, the last time."""
        return (self.folder / "stand-in" / "argv").read_text().splitlines()[-1].split()


@pytest.fixture(params=SHELLS, ids=lambda shell: shell[0])
def room(request: pytest.FixtureRequest, tmp_path: Path) -> Room:
    return Room(tmp_path / "our room", request.param)


def test_a_job_runs_the_app_with_its_folders_mounted_and_its_cores(room: Room) -> None:
    assert room.build()[0] == 0
    assert room.job(mounts=["/new/place/", "/data"])[0] == 0
    binds = "distribute_save:/distribute_save:rw,input:/input:rw,_bind_path_1:/data:rw,_bind_path_0:/new/place:rw"
    tmp = f"../../../attempts/{TOKEN}/tmp:/tmp:rw"
    assert room.argv() == ["run", "--app", "distribute", "--bind", f"{binds},{tmp}", "../image.sif", "3"]


def test_a_folder_of_its_own_in_the_place_of_tmp_is_not_hidden_by_ours(room: Room) -> None:
    room.build()
    room.job(mounts=["//tmp/"])
    assert room.argv()[4] == "distribute_save:/distribute_save:rw,input:/input:rw,_bind_path_0:/tmp:rw"


@pytest.mark.parametrize(
    ("vendors", "options"),
    [
        ((), []),
        (("nvidia",), ["--nv"]),
        (("",), ["--nv"]),
        (("amd", "amd"), ["--rocm"]),
        (("amd", "nvidia"), ["--nv", "--rocm"]),
    ],
)
def test_only_who_was_given_a_gpu_is_shown_the_driver_of_its_kind(vendors: Sequence[str], options: list[str]) -> None:
    gpus = [Gpu(number, vendor) for number, vendor in enumerate(vendors)]
    words = container.command(token=TOKEN, program="apptainer", cores=1, gpus=gpus)
    assert words[2 : words.index("--app")] == options


def test_no_variable_of_a_batch_is_taken_for_one_of_ours(room: Room) -> None:
    (room.root / "scif/apps/distribute/scif/runscript").unlink()
    names = ["question", "gently", "image", "name", "program", "lib", "slot", "bad", "what", "home", "rc"]
    room.more = dict.fromkeys(names, "false")
    code, said = room.build()
    assert (code, "distribute: 'solver.sif' has no app 'distribute'" in said) == (1, True), said


def test_singularity_runs_images_where_only_that_is_there() -> None:
    assert container.program({"apptainer": "1.4", "singularity": "1.4"}) == "apptainer"
    assert container.program({"singularity": "3.8"}) == "singularity"
    env = container.environment({}, token=TOKEN, root="/r", program="singularity")
    assert {env[f"SINGULARITY_{each}"] for each in ("CACHEDIR", "TMPDIR", "CONFIGDIR")} == {
        f"/r/attempts/{TOKEN}/container"
    }


def test_what_the_environment_says_of_folders_is_true_inside(room: Room) -> None:
    room.build()
    room.job()
    found = dict(line.partition("=")[::2] for line in (room.folder / "stand-in/env").read_text().splitlines())
    assert found["DISTRIBUTE_INPUT_DIR"] == "/input"
    assert found["DISTRIBUTE_SAVE_DIR"] == "/distribute_save"
    assert found["TMPDIR"] == "/tmp"
    assert "DISTRIBUTE_JOB_DIR" not in found
    assert Path(found["APPTAINER_TMPDIR"]).is_dir()


def test_every_job_finds_its_own_files_over_the_common_ones_and_nothing_of_an_earlier_job(room: Room) -> None:
    look = b"cat input/a input/b; ls -A input _bind_path_0 distribute_save; echo x > input/left > _bind_path_0/left\n"
    init = (room.put(b"common\n", "a"), room.put(b"both\n", "b"))
    assert room.build(*init, image=look)[0] == 0
    first = room.job(room.put(b"own\n", "b"), init=init, mounts=["/x"])
    assert first[1].splitlines()[1:] == [
        "common",
        "own",
        "_bind_path_0:",
        "",
        "distribute_save:",
        "",
        "input:",
        "a",
        "b",
    ]
    room.folder.joinpath(SLOT, "_bind_path_0").chmod(0o500)
    assert room.job(room.put(b"own\n", "b"), init=init, mounts=["/x"]) == first


def test_the_image_is_there_once_and_stays_when_room_is_made(room: Room) -> None:
    room.build(image=b"echo it runs\n")
    image = room.folder / "batches" / BATCH / container.IMAGE
    (blob,) = (room.folder / "files").iterdir()
    assert image.samefile(blob)
    blob.unlink()
    assert room.job()[1].endswith("it runs\n")


@pytest.mark.parametrize(
    ("seen", "sentence"),
    [
        ("no-image", "'solver.sif' cannot be read as an image: it is damaged, cut short, or no image at all"),
        ("cut-short", "'solver.sif' cannot be read as an image: it is damaged, cut short, or no image at all"),
        (
            "no-squashfuse",  # on a machine that does not let it unpack either
            (
                "apptainer cannot run 'solver.sif' on this node: FATAL:   container creation failed: mount hook "
                "function failure: mount proc->/proc error: while mounting proc: can't mount proc filesystem to "
                "/proc: operation not permitted"
            ),
        ),
        ("no-shell", "'solver.sif' has no /bin/sh, which its app 'distribute' needs"),
        (
            "no-user-namespaces",
            "apptainer may not run images on this node: it needs user namespaces for everybody, or apptainer-suid",
        ),
    ],
)
def test_an_image_that_cannot_be_run_fails_the_build_with_the_cause_as_last_line(
    room: Room, seen: str, sentence: str
) -> None:
    room.says = SEEN / f"{seen}.txt"
    code, said = room.build()
    assert code == 1
    assert said.startswith(room.says.read_text())
    assert said.splitlines()[-1] == f"distribute: {sentence}"


def test_what_nobody_has_seen_yet_is_passed_on(room: Room) -> None:
    room.says = room.folder / "says"
    room.says.write_text("INFO:    something\nFATAL:   the moon is full\nINFO:    more\n")
    code, said = room.build()
    assert (code, said.splitlines()[-1]) == (
        1,
        "distribute: apptainer cannot run 'solver.sif' on this node: FATAL:   the moon is full",
    )


def test_a_node_without_the_program_is_told(room: Room) -> None:
    (room.folder / "stand-in/apptainer").unlink()
    assert room.build() == (127, "distribute: there is no apptainer on this node's PATH\n")


def test_an_image_without_the_app_is_told_with_the_apps_it_has(room: Room) -> None:
    for name in ("mesh", "solve"):
        (room.root / "scif/apps" / name).mkdir()
    shutil.rmtree(room.root / "scif/apps/distribute")
    code, said = room.build()
    assert code == 1
    assert said.splitlines()[-1] == (
        "distribute: 'solver.sif' has no app 'distribute' (only: mesh solve); "
        "its definition file needs %apprun distribute"
    )
    shutil.rmtree(room.root / "scif")
    assert "has no app 'distribute'; its" in room.build()[1]


def test_mounts_over_what_an_image_has_are_told_and_only_files_are_in_the_way(room: Room) -> None:
    for name in ("empty", "full", "hidden"):
        (room.root / name).mkdir()
    for name in ("full/mesh", "hidden/.config", "a file"):
        (room.root / name).touch()
    code, said = room.build(mounts=["/empty", "/full/", "/hidden", "/nowhere/at/all"])
    assert code == 0, said
    assert said.splitlines()[1:] == [
        f"distribute: required_mounts: jobs will not see what 'solver.sif' has in {place}, but an empty folder"
        for place in ("/full", "/hidden")
    ]
    code, said = room.build(mounts=["/a file"])
    assert code == 1
    assert said.splitlines()[-1].startswith("distribute: required_mounts: /a file is a file in 'solver.sif'; only")


def test_a_job_that_fails_is_told_what_lies_behind_it(room: Room) -> None:
    (room.root / "bin").mkdir()
    (room.root / "bin/sh").touch()
    room.build(mounts=["/bin"])
    room.says = SEEN / "mounted-over-bin.txt"
    said = room.job(mounts=["/bin"])[1].splitlines()[-1]
    assert said.startswith("distribute: jobs do not see what the image has in /bin: it is one of the required_mounts (")
    room.says = SEEN / "read-only.txt"
    said = room.job(mounts=["/bin"])[1].splitlines()[-1]
    assert said == (
        "distribute: an image cannot be written to; list in required_mounts where jobs write, "
        "or use /distribute_save (touch: /x: Read-only file system)"
    )


def test_what_apptainer_says_of_processes_left_behind_does_not_hide_the_last_line_of_the_job(room: Room) -> None:
    room.build()
    room.says = SEEN / "left-running.txt"
    said = room.job()[1].splitlines()[-1]
    assert said == "distribute: it left processes running in the container; the last that it printed: diverged"


def test_a_job_that_fails_by_itself_has_the_last_word(room: Room) -> None:
    room.build(image=b"echo 'no mesh: No such file or directory'; echo diverged; exit 3\n")
    assert room.job()[1].endswith("diverged\n")
    room.build(image=b"echo 'warning: Read-only file system'; exit 0\n")
    assert room.job()[1].endswith("warning: Read-only file system\n")
