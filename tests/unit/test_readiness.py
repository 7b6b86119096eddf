"""The last look before a start: what is asked of a node, what its answer says, and what follows."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from distribute_ssh.model.resources import Share
from distribute_ssh.node import readiness
from distribute_ssh.node.probe import Gpu
from distribute_ssh.plan.readiness import FIRST_PAUSE, LONGEST_PAUSE, Promised, Seen, noise, pause, trouble

SHELLS = {"dash": ["dash"], "bash": ["bash", "--posix"], "busybox": ["busybox", "sh"]}
QUEUE = "abcd1234"
NVIDIA = tuple(Gpu(n, "nvidia", "NVIDIA H100 80GB HBM3", 81559, f"GPU-{n}a-b") for n in range(3))
AMD = tuple(Gpu(n, "amd", "AMD Instinct MI210", 65520, f"GPU-{n}f00000000000000") for n in range(2))

linux = pytest.mark.skipif(platform.system() != "Linux", reason="nodes run Linux")


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest) -> list[str]:
    if shutil.which(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    return [str(shutil.which(SHELLS[request.param][0])), *SHELLS[request.param][1:]]


def tool(folder: Path, name: str, text: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)


def look(shell: list[str], room: Path, *gpus: Gpu, processors: bool = False, path: str | None = None) -> Seen:
    """What is really here, as the script tells it."""
    env = {"PATH": f"{room}/bin:{path or os.environ['PATH']}"}
    text = readiness.script(QUEUE, str(room), env, gpus, processors=processors)
    # As nobody's child: whoever runs the tests is somebody else to it.
    done = subprocess.run([*shell, "-c", text], input=b"rm -rf /\n", capture_output=True, timeout=60, check=True)
    assert done.stderr == b""
    return readiness.parse(done.stdout.decode(), gpus)


@contextmanager
def process(tag: str = "", program: str = "sleep 600") -> Iterator[int]:
    with subprocess.Popen(["sh", "-c", f"exec {program}"], env={"DISTRIBUTE_ATTEMPT": tag} if tag else {}) as made:
        try:
            yield made.pid
        finally:
            made.kill()


@linux
def test_memory_and_scratch_are_those_of_now(shell: list[str], tmp_path: Path) -> None:
    seen = look(shell, tmp_path)
    assert seen.memory_mb == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20
    assert seen.available_mb is not None
    assert 0 < seen.available_mb <= seen.memory_mb
    assert seen.scratch_mb is not None
    assert abs(seen.scratch_mb - (shutil.disk_usage(tmp_path).free >> 20)) < 1024
    assert (seen.others, seen.used, seen.gone, seen.silent) == (None, {}, {}, {})


@linux
def test_processes_that_carry_a_tag_of_our_queue_are_ours_and_all_others_are_not(
    shell: list[str], tmp_path: Path
) -> None:
    spin = "sh -c 'while :; do :; done'"
    with process(f"{QUEUE}-1", program=spin):
        ours = look(shell, tmp_path, processors=True).others
    with process("other-1", program=spin), process(program=spin):
        theirs = look(shell, tmp_path, processors=True).others
    assert ours is not None
    assert theirs is not None
    assert theirs > 0.2, "of two that never rest"
    big = "python3 -c 'import time; held = bytearray(200 << 20); time.sleep(600)'"
    with process(f"{QUEUE}-1", program=big):
        for _ in range(100):
            if look(shell, tmp_path).ours_mb > 200:
                break
        else:
            pytest.fail("its memory is never counted as ours")


@linux
def test_whoever_holds_a_gpu_is_named_and_our_own_jobs_are_not(shell: list[str], tmp_path: Path) -> None:
    with process(f"{QUEUE}-1") as mine, process("other-1") as theirs:
        rows = [
            f"{NVIDIA[0].uuid}, {mine}, 1024, /usr/bin/sleep",
            f"{NVIDIA[1].uuid}, {theirs}, 12595, /usr/bin/sleep",
            f"{NVIDIA[2].uuid}, 4194399, [N/A], /opt/theirs/a out",
        ]
        there = "\n".join(str(gpu.uuid) for gpu in NVIDIA)
        tool(
            tmp_path / "bin",
            "nvidia-smi",
            f"case $1 in\n--query-gpu=uuid) echo '{there}';;\n*) echo '{chr(10).join(rows)}';;\nesac",
        )
        used = dict(look(shell, tmp_path, *NVIDIA).used)
    owner = Path("/proc/self").owner()
    assert used == {1: f"{owner} (sleep, 12.3 GiB)", 2: "somebody (a out)"}


@linux
def test_a_gpu_that_died_is_told_from_a_tool_that_did(shell: list[str], tmp_path: Path) -> None:
    lost = f"echo {NVIDIA[0].uuid}\necho 'Unable to determine the device handle for GPU0000:41:00.0: Unknown Error'"
    tool(tmp_path / "bin", "nvidia-smi", f"case $1 in --query-gpu=uuid) {lost}\nexit 14;; esac")
    seen = look(shell, tmp_path, *NVIDIA[:2])
    assert (seen.gone, seen.silent) == ({1: "NVIDIA H100 80GB HBM3"}, {})
    tool(tmp_path / "bin", "nvidia-smi", "echo 'Failed to initialize NVML: Driver/library version mismatch'; exit 18")
    seen = look(shell, tmp_path, *NVIDIA[:2])
    assert seen.gone == {}
    assert set(seen.silent.values()) == {"nvidia-smi: Failed to initialize NVML: Driver/library version mismatch"}
    (tmp_path / "bin" / "nvidia-smi").unlink()
    assert set(look(shell, tmp_path, NVIDIA[0]).silent.values()) == {"nvidia-smi ended with 127"}


PIDS = """
============================ ROCm System Management Interface ============================
=================================== GPUs Indexed by PID ===================================
PID 4194398 is using 0 DRM device(s)
PID {theirs} is using 2 DRM device(s):
0 1
PID {mine} is using 1 DRM device(s):
0
===========================================================================================
================================== End of ROCm SMI Log ===================================
"""


@linux
def test_amd_gpus_are_looked_at_as_well(shell: list[str], tmp_path: Path) -> None:
    with process(f"{QUEUE}-1") as mine, process() as theirs:
        cards = ", ".join(f'"card{gpu.index}": {{"Unique ID": "0x{str(gpu.uuid)[4:]}"}}' for gpu in AMD)
        (tmp_path / "pids").write_text(PIDS.format(mine=mine, theirs=theirs))
        tool(
            tmp_path / "bin",
            "rocm-smi",
            f"case $1 in --showpidgpus) cat {tmp_path}/pids;; *) echo '{{{cards}}}';; esac",
        )
        seen = look(shell, tmp_path, *AMD)
    owner = Path("/proc/self").owner()
    assert (seen.used, seen.gone) == (dict.fromkeys((0, 1), f"{owner} (sleep)"), {})


@linux
def test_a_node_without_tools_says_what_it_can(tmp_path: Path) -> None:
    (tmp_path / "few").mkdir()
    seen = look([str(shutil.which("dash"))], tmp_path, path=str(tmp_path / "few"), processors=True)
    assert seen.memory_mb
    assert (seen.scratch_mb, seen.others, seen.ours_mb) == (None, None, 0)


def test_half_an_answer_is_none() -> None:
    with pytest.raises(ValueError, match="could not be asked"):
        readiness.parse("MemTotal: 1\n", ())


# --- what follows ---

NODE = Seen(memory_mb=64000, available_mb=60000, scratch_mb=100_000)


@pytest.mark.parametrize(
    ("seen", "asked", "promised", "told"),
    [
        (NODE, 40_000, 0, None),
        (NODE, 64_000, 0, None),  # no machine has all of it: a tenth may be missing
        (NODE, 40_000, 30_000, "has 29.3 GiB of memory free now, and 39.1 GiB are asked for"),
        (replace(NODE, available_mb=20_000), 30_000, 0, "has 19.5 GiB of memory free now, and 29.3 GiB are asked for"),
        # What our jobs use was promised to them: it is not counted twice.
        (replace(NODE, available_mb=30_000, ours_mb=30_000), 30_000, 30_000, None),
        (replace(NODE, available_mb=30_000, ours_mb=30_000), 30_000, 0, None),
        (replace(NODE, available_mb=20_000, ours_mb=0), 30_000, 30_000, "has 0 B of memory free now"),
        (Seen(), 30_000, 0, None),
    ],
)
def test_memory_has_to_fit_beside_what_others_use_and_ours_were_promised(
    seen: Seen, asked: int, promised: int, told: str | None
) -> None:
    found = trouble(seen, Share(1, asked), (), Promised(memory_mb=promised))
    assert found is None if told is None else found is not None and found.startswith(told)


def test_scratch_has_to_be_free_where_it_is_asked_for() -> None:
    assert trouble(NODE, Share(1, disk_mb=60_000), (), Promised()) is None
    assert trouble(NODE, Share(1, disk_mb=60_000), (), Promised(disk_mb=50_000)) == (
        "has 48.3 GiB of scratch free now, and 58.6 GiB are asked for"
    )
    assert trouble(replace(NODE, scratch_mb=0), Share(1), (), Promised()) is None


def test_processors_that_others_use_are_not_ours_to_give_but_a_little_is_nothing() -> None:
    def told(others: float | None, asked: int, given: int = 0) -> str | None:
        return noise(Seen(others=others), Share(asked), 16, Promised(cores=given))

    assert told(None, 16) is None
    assert told(2.0, 4, given=12) is None
    assert told(5.0, 4, given=12) == "has others at work on 5.0 of its 16 cores, and 4 cores are asked for"
    assert told(9.0, 16) is None, "half of what it asked for is left"
    assert told(11.0, 16) is not None
    assert noise(Seen(others=1.0), Share(1), 4, Promised(cores=3)) is None


HELD = Seen(used={0: "ann (python3, 12.3 GiB)"}, gone={2: "NVIDIA A100"})


def test_a_gpu_that_others_hold_or_that_died_is_not_given() -> None:
    assert trouble(HELD, Share(1, gpus=(1,)), {1}, Promised()) is None
    assert trouble(HELD, Share(1, gpus=(0, 1)), {0, 1}, Promised()) == "GPU 0 is used by ann (python3, 12.3 GiB)"
    assert trouble(HELD, Share(1, gpus=(0, 2)), {0, 2}, Promised()) == (
        "GPU 0 is used by ann (python3, 12.3 GiB), GPU 2 does not answer any more (NVIDIA A100)"
    )


def test_who_gets_all_gpus_waits_only_where_none_is_left() -> None:
    assert trouble(HELD, None, {0, 1, 2}, Promised()) is None
    assert trouble(HELD, None, {0}, Promised()) == "GPU 0 is used by ann (python3, 12.3 GiB)"
    silent = Seen(silent={0: "nvidia-smi: no", 1: "nvidia-smi: no"})
    assert trouble(silent, None, {0, 1}, Promised()) == (
        "GPU 0 does not answer: nvidia-smi: no, GPU 1 does not answer: nvidia-smi: no"
    )


def test_pauses_grow_while_nothing_changes_and_begin_anew_after_a_while() -> None:
    last, now, lengths = None, 0.0, []
    for _ in range(10):
        length = pause(last, now)
        lengths.append(length)
        now += length
        last = (now, length)
    assert lengths[:3] == [FIRST_PAUSE, 2 * FIRST_PAUSE, 4 * FIRST_PAUSE]
    assert lengths[-1] == LONGEST_PAUSE
    assert pause(last, now + 2 * LONGEST_PAUSE + 1) == FIRST_PAUSE
