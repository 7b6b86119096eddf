"""Jobs that say what they need share a node: cores, threads, GPUs by UUID; what others hold is left to them."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.endtoend.site import Command, Site

UUIDS = [f"GPU-{number}0f1e2d3-1111-2222-3333-444455556666" for number in range(3)]

SMI = """\
#!/bin/sh
# A pretended nvidia-smi; what it shows lies in files.
case "$*" in
*--query-gpu=index*)
    while read -r index uuid; do echo "$index, $uuid, 24564, NVIDIA GeForce RTX 4090"; done < {folder}/gpus ;;
*--query-gpu=uuid*) while read -r index uuid; do echo "$uuid"; done < {folder}/gpus ;;
*--query-compute-apps=gpu_uuid*) cat {folder}/used ;;
*) exit 2 ;;
esac
"""

JOB = """
names = ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "OMP_NUM_THREADS", "DISTRIBUTE_CPUS", "DISTRIBUTE_GPUS")
note(" ".join(["told", JOB, sys.argv[1], *(os.environ.get(name, "?") or "none" for name in names)]))
gate(JOB)
"""


class Gpus:
    """The GPUs that a node pretends to have."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        folder.chmod(0o755)
        (folder / "used").touch()
        (folder / "nvidia-smi").write_text(SMI.format(folder=folder))
        (folder / "nvidia-smi").chmod(0o755)
        self.answer(0, 1, 2)

    def answer(self, *numbers: int) -> None:
        """These are there."""
        (self.folder / "gpus.new").write_text("".join(f"{number} {UUIDS[number]}\n" for number in numbers))
        (self.folder / "gpus.new").rename(self.folder / "gpus")

    @contextmanager
    def held(self, number: int) -> Iterator[None]:
        """Somebody else's program computes on one."""
        with subprocess.Popen(["sleep", "600"], user=65534, env={}) as theirs:
            (self.folder / "used").write_text(f"{UUIDS[number]}, {theirs.pid}, 2048, /opt/their/python3\n")
            try:
                yield
            finally:
                theirs.kill()


def started(site: Site) -> list[str]:
    """The jobs that were begun, in order."""
    return [line.split()[0] for line in site.notes("told")]


def told(site: Site, job: str) -> list[str]:
    """What a job found: its argument, and the variables."""
    (line,) = [line.split()[1:] for line in site.notes("told") if line.split()[0] == job]
    return line


def end(site: Site, command: Command, *jobs: str) -> None:
    site.open(*jobs)
    assert command.end() == 0, command.said()


def asking(**resources: Any) -> dict[str, Any]:
    return {"resources": resources}


@pytest.mark.root
def test_gpus_are_given_by_uuid_and_neither_what_others_hold_nor_what_died(site: Site, tmp_path: Path) -> None:
    gpus = Gpus(site.public / "gpus")
    path = f"{gpus.folder}:/usr/local/bin:/usr/bin:/bin"
    room = site.local(cores=8, env={"PATH": path})
    jobs = [f"job{number}" for number in range(4)]
    file = site.batch(jobs, run=JOB, meta=asking(cores=1, gpus=1, gpu_memory="16G"))
    with gpus.held(0):
        command = site.start("run", file)
        site.wait(lambda: len(started(site)) == 2, "two jobs have the GPUs that nobody holds")
        on = {told(site, job)[1]: job for job in started(site)}
        assert sorted(on) == UUIDS[1:]
        given = [told(site, job) for job in on.values()]
        assert {tuple(found[:1] + found[2:]) for found in given} == {("1", "PCI_BUS_ID", "1", "1", "1")}
        why = site.do("explain", "ns/b").answered()
        assert "GPU 0 is used by nobody (sleep, 2.0 GiB)" in why

        waiting = sorted(set(jobs) - set(on.values()))
        gpus.answer(0, 2)  # number 1 has fallen off the bus
        site.open(on[UUIDS[1]])
        gone = "GPU 1 does not answer any more (NVIDIA GeForce RTX 4090)"
        site.wait(lambda: any(gone in site.reason(job) for job in waiting), "the dead one is found out")
        (node,) = site.data("nodes")["nodes"]
        assert [gpu["index"] for gpu in node["gpus"]] == [0, 2]
        assert len(started(site)) == 2
        end(site, command, *jobs)
    for job in waiting:
        assert told(site, job)[1] == UUIDS[2]
        assert site.record(job)["given"]["gpus"] == [2]
    site.assert_clean(room)


def test_jobs_that_ask_for_little_run_beside_each_other_and_who_asks_for_nothing_waits_for_an_empty_node(
    site: Site,
) -> None:
    room = site.local(cores=16)  # far more than are there: nobody else is seen to need them
    little = [f"little{number}" for number in range(4)]
    build = "note('build ' + NODE)\nopen('made', 'w').close()\n"
    command = site.start("run", site.batch(dict.fromkeys(little, asking(cores=4)), run=JOB, build=build))
    site.wait(lambda: len(started(site)) == 4, "as many as fit")
    assert sorted(started(site)) == little
    for job in little:
        # No GPU asked for, none to be seen.
        assert told(site, job) == ["4", "none", "PCI_BUS_ID", "4", "4", "0"]
    assert len(list((room / "batches").glob("*/slot-*"))) == 4
    later = {"whole": {}, "half": asking(cores=8)}
    site.do("add", site.batch(later, name="c", run=JOB))
    site.open(*little[:3])
    site.wait(lambda: "half" in started(site), "there is room for half of it")
    assert "whole" not in started(site)
    site.open("half")
    site.wait_state("half", "done", batch="c")
    assert "whole" not in started(site), "one of the others is still there"
    end(site, command, little[3])
    follow = site.start("run", site.folder / "batches" / "c" / "jobs.yaml")
    site.wait(lambda: "whole" in started(site), "nobody else is there any more")
    assert told(site, "whole")[0] == "16"
    end(site, follow, "whole")
    assert site.notes("build") == ["here", "here"], "each batch once, however many slots it has"
    assert site.record("whole", batch="c")["given"] is None
    assert site.record("half", batch="c")["given"] == {"cores": 8, "memory_mb": 0, "gpus": [], "disk_mb": 0}
    site.assert_clean(room)
