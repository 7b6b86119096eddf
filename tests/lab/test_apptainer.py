"""Batches of images on machines with a real apptainer, as ordinary people run it: folders, failures, pause and kill."""

from __future__ import annotations

import base64
import json
import math
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.lab.site import LabSite
from tests.lab.trixie import trixie
from tests.support import processes

EXAMPLE = Path(__file__).parents[2] / "examples" / "container"

# A root of one static busybox: enough for an image, and no network is needed for it. Each job brings its own script.
MAKE = """\
mkdir -p /tmp/root/bin /tmp/root/solver && cp /bin/busybox /tmp/root/bin/sh && echo fine > /tmp/root/solver/mesh &&
for each in awk cat ls setsid sleep touch; do ln -s sh /tmp/root/bin/$each; done &&
printf 'Bootstrap: localimage\\nFrom: /tmp/root\\n%s' "$1" > /tmp/definition &&
apptainer build --ignore-subuid /tmp/image.sif /tmp/definition >&2 && base64 /tmp/image.sif && rm -r /tmp/*
"""
GATE = 'note() { echo "$1" >> $SITE/notes; }; gate() { while [ ! -e $SITE/gates/$1 ]; do sleep 0.1; done; }\n'
LOOK = """\
note "begin $DISTRIBUTE_JOB_NAME $DISTRIBUTE_NODE"
gate $DISTRIBUTE_JOB_NAME
echo $1 cores, $(cat /input/common), $(ls /input)
echo mounted: $(ls -A /results /new/place /distribute_save /tmp)
touch /results/left /new/place/left /tmp/left
echo $DISTRIBUTE_INPUT_DIR $DISTRIBUTE_SAVE_DIR $TMPDIR
echo $DISTRIBUTE_JOB_NAME > /distribute_save/result
"""
WAIT = "note('begin ' + JOB + ' ' + NODE); gate(JOB); save('result', JOB.encode())\n"


class Study:
    """Batches of images on a site; images are made on one of its machines, since there is an apptainer."""

    def __init__(self, site: LabSite) -> None:
        self.site = site
        self.node = site.machines.machines["node1"]
        self.image = self.make("%apprun distribute\n  . /input/job.sh\n")

    def make(self, definition: str) -> bytes:
        """An image: what stands in its definition file behind what it is made of."""
        said = self.node.exec(["env", "HOME=/home/ana", "sh", "-c", MAKE, "make", definition], user="ana").stdout
        return base64.b64decode(said)

    def example(self) -> Path:
        """The jobs file of the example, with an image by its definition; only what it is made of is ours."""
        folder = self.site.folder / "batches" / "example"
        shutil.copytree(EXAMPLE, folder)
        _, _, definition = (EXAMPLE / "pi.def").read_text().partition("\n\n")
        (folder / "pi.sif").write_bytes(self.make(definition))
        return folder / "jobs.yaml"

    def batch(
        self,
        name: str,
        jobs: Mapping[str, str],
        *,
        image: bytes | None = None,
        mounts: Sequence[str] = (),
        needs: Sequence[str] = (),
    ) -> Path:
        """A jobs file; `jobs`: shell scripts by name."""
        folder = self.site.folder / "batches" / name
        folder.mkdir()
        (folder / "solver.sif").write_bytes(image or self.image)
        (folder / "common").write_text("for all\n")
        for job, script in jobs.items():
            (folder / f"{job}.sh").write_text(GATE + script)
        entries = [{"name": job, "required_files": [{"path": f"{job}.sh", "alias": "job.sh"}]} for job in jobs]
        initialize = {"sif": "solver.sif", "required_files": ["common"], "required_mounts": list(mounts)}
        document = {
            "meta": {"namespace": "ns", "batch_name": name, "capabilities": list(needs)},
            "apptainer": {"initialize": initialize, "jobs": entries},
        }
        path = folder / "jobs.yaml"
        path.write_text(json.dumps(document))
        return path

    def forgive(self) -> None:
        """Let a node have more batches whose build failed on it."""
        with self.site.database() as queue:
            queue.execute("UPDATE nodes SET failures = '[]', probation_until = NULL")


@pytest.fixture
def study(site: Callable[..., LabSite]) -> Callable[..., Study]:
    def make(count: int, **settings: Any) -> Study:
        new = site(count, root=trixie(), slots=2, **settings)
        # Where jobs note what they do and wait at gates, is mounted as a lab would mount its data: by the node.
        for name in new.machines.machines:
            env = {"APPTAINER_BIND": str(new.public), "PATH": "/opt/lab/bin:/usr/bin:/bin"}
            new.enter(name, scratch="/var/tmp", slots=2, env=env, **settings)
        return Study(new)

    return make


def nodes_of(notes: Sequence[str]) -> Counter[str]:
    return Counter(note.split()[-1] for note in notes)


@pytest.mark.timeout(900)  # the first time, the root is made
def test_images_and_scripts_share_three_machines_of_two_slots(study: Callable[..., Study]) -> None:
    here = study(3)
    site = here.site
    images, scripts = [f"i{n}" for n in range(6)], [f"s{n}" for n in range(6)]
    command = site.start("run", here.batch("images", dict.fromkeys(images, LOOK), mounts=["/results", "/new/place/"]))
    site.wait(lambda: len(site.notes("begin i")) == 6, "a job of the image runs in every slot")
    began = [note.split() for note in site.notes("begin ")]
    assert nodes_of(site.notes("begin i")) == dict.fromkeys(site.machines.machines, 2)
    # One file on each machine for all its slots, whatever has gone there: it came once.
    sent = {name: [path for path in (site.room(name) / "files").iterdir() if path.stat().st_size == len(here.image)]
            for name in site.machines.machines}  # fmt: skip
    assert all(len(files) == 1 and files[0].stat().st_nlink == 2 for files in sent.values())

    site.do("add", site.batch(scripts, name="scripts", run=WAIT))
    site.open(*{node: job for job, node in began}.values())
    site.wait(lambda: len(site.notes("begin s")) == 3, "a script runs beside an image on every machine")
    assert nodes_of(site.notes("begin s")) == dict.fromkeys(site.machines.machines, 1)
    site.open(*images, *scripts)
    assert command.end() == 0
    site.do("run", site.folder / "batches" / "scripts" / "jobs.yaml")
    cores = max(1, site.data("nodes")["nodes"][0]["cores"] // 2)
    for job in images:
        said = (site.results(job, "images") / f"{job}_output.txt").read_text()
        assert site.record(job, "images")["node"] in site.machines.machines
        assert f"\n{cores} cores, for all, common job.sh\n" in said
        assert "\nmounted: /distribute_save: /new/place: /results: /tmp:\n" in said
        assert "\n/input /distribute_save /tmp\n" in said
        assert (site.results(job, "images") / "result").read_text() == f"{job}\n"

    # The same image for another batch is there already, and is still the file that came.
    before = {name: files[0].stat().st_ino for name, files in sent.items()}
    site.do("run", here.batch("again", dict.fromkeys(["one", "two", "three"], "echo again")))
    assert {name: files[0].stat().st_ino for name, files in sent.items()} == before
    site.do("run", here.example())
    pi = (site.storage / "examples/pi/pi-10000/pi.txt").read_text()
    assert abs(float(pi) - math.pi) < 1e-3
    site.wait(lambda: not site.remains(), "nothing is left")
    for machine in site.machines.machines.values():
        assert machine.exec(["find", "/tmp", "/home/distribute", "-mindepth", "1"]).stdout.split() == [
            "/home/distribute/.ssh",
            "/home/distribute/.ssh/authorized_keys",
        ]


@pytest.mark.timeout(900)
def test_what_goes_wrong_with_an_image_is_told_in_a_sentence(study: Callable[..., Study]) -> None:
    here = study(1)
    site = here.site
    damaged = here.image[: len(here.image) // 2]
    builds = {
        "without": (
            here.make("%apprun other\n  true\n"),
            [],
            "'solver.sif' has no app 'distribute' (only: other); its",
        ),
        "damaged": (damaged, [], "'solver.sif' cannot be read as an image: it is damaged, cut short, or no image"),
        "nothing": (b"no image\n", [], "'solver.sif' cannot be read as an image"),
        "over-file": (here.image, ["/bin/sh"], "required_mounts: /bin/sh is a file in 'solver.sif'"),
    }
    for name, (image, mounts, sentence) in builds.items():
        site.do("run", here.batch(name, {"job": ""}, image=image, mounts=mounts), code=1)
        assert f"distribute: {sentence}" in site.reason("job", name)
        here.forgive()
    jobs = {
        "writes": "touch /solver/result",
        "misses": "cat /solver/mesh",
        "fails": "echo diverged; exit 3",
        "lies": "cat /solver/nothing; exit 0",
    }
    site.do("run", here.batch("jobs", jobs, mounts=["/solver/", "/work"]), code=1)
    site.do("run", here.batch("read-only", jobs), code=1)
    assert site.reason("misses", "jobs").startswith(
        "exit 1: distribute: jobs do not see what the image has in /solver: it is one of the required_mounts (cat: "
    )
    assert site.reason("writes", "read-only").startswith(
        "exit 1: distribute: an image cannot be written to; list in required_mounts where jobs write, or use /distribut"
    )
    assert {site.reason("fails", batch) for batch in ("jobs", "read-only")} == {"exit 3: diverged"}
    assert site.states("read-only") == {"writes": "failed", "misses": "done", "fails": "failed", "lies": "done"}
    assert site.states("jobs") == {"writes": "done", "misses": "failed", "fails": "failed", "lies": "done"}
    site.wait(lambda: not site.remains(), "nothing is left")


GPU = """\
#!/bin/sh
case $1 in
--query-gpu=uuid) echo GPU-11111111-2222 ;;
--query-gpu=*) echo '0, GPU-11111111-2222, 8192, Pretended' ;;
esac
"""
BUSY = """\
sh -c 'while :; do sleep 0.05; done' &
setsid sh -c 'while :; do sleep 0.05; done' &
note begin
wait
"""


@pytest.mark.timeout(900)
def test_pause_and_kill_reach_all_of_a_container_and_only_jobs_for_gpus_are_shown_one(
    study: Callable[..., Study],
) -> None:
    here = study(1)
    site = here.site
    site.machines.pretend("node1", "nvidia-smi", GPU)
    noting = '#!/bin/sh\n[ "$1" != run ] || echo "ran $*" >> $SITE/notes\nexec /usr/bin/apptainer "$@"\n'
    site.machines.pretend("node1", "apptainer", noting)
    command = site.start("run", here.batch("busy", {"job": BUSY}, needs=["gpu"]))
    site.wait(lambda: site.notes("begin"), "it runs")
    site.do("run", here.batch("plain", {"job": "echo hello"}))
    ran = site.notes("ran ")
    assert [words.split()[1:3] for words in ran] == [["--nv", "--app"], ["--app", "distribute"]]

    def times() -> dict[int, int]:
        inside = (pid for pid, _ in site.processes())
        return {pid: had for pid in inside if (had := processes.processor_time(pid)) is not None}

    def container() -> list[str]:
        commands = (" ".join(each.command) for each in here.node.processes())
        return [
            each for each in commands if any(word in each for word in ("pptainer", "squashfuse", "while :", "job.sh"))
        ]

    site.do("pause", "node1", "--for", "10m")
    assert processes.stand_still(times, 2)
    assert len(times()) >= 3
    site.do("resume", "node1")
    site.wait(lambda: not processes.stand_still(times, 0.5), "it goes on")
    # What holds the image open has nothing of ours in its environment, and is found as a child.
    assert {"squashfuse" in each for each in container()} == {True, False}
    site.do("kill", "-y", "ns/busy")
    assert container() == []
    assert command.end() == 1
    site.wait(lambda: not site.remains(), "nothing is left")
