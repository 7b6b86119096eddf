"""How gently builds and jobs run: what their process really got, under each shell, and where a node lacks the tools."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from distribute_ssh.model.inventory import NodeEntry
from distribute_ssh.model.job import Input
from distribute_ssh.node.probe import Facts, merge
from distribute_ssh.node.shell import build_script, gently, job_script

BATCH, TOKEN = "testqueue-batch1", "testqueue-job001"
SHELLS = [shell for shell in (["dash"], ["bash", "--posix"], ["busybox", "sh"]) if shutil.which(shell[0])]
TELL = (
    f"IONICE = {shutil.which('ionice')!r}\n"
    """
import json, os, subprocess
group = open("/proc/self/autogroup").read().split()[-1] if os.path.exists("/proc/self/autogroup") else None
io = subprocess.run([IONICE], capture_output=True, text=True).stdout.strip()
print(json.dumps({"nice": os.nice(0), "io": io, "cpus": sorted(os.sched_getaffinity(0)), "group": group}))
"""
)
BEFORE = os.nice(0)
ALL = sorted(os.sched_getaffinity(0))


def run(folder: Path, shell: list[str], gentle: list[str], *, path: str | None = None, build: bool = False) -> Any:
    """Run a job, or a build, as a wrapper does: in a session of its own; what it says of itself."""
    for each in ("files", f"attempts/{TOKEN}", f"batches/{BATCH}/slot-0/initial_files"):
        (folder / each).mkdir(parents=True, exist_ok=True)
    program = TELL.encode()
    script = Input("run.py", hashlib.sha256(program).hexdigest(), len(program))
    (folder / "files" / script.sha256).write_bytes(program)
    python = sys.executable
    if build:
        text = build_script(
            batch_token=BATCH, script=script, init=(), shared=False, python=python, env={}, gentle=gentle
        )  # fmt: skip
    else:
        text = job_script(
            token=TOKEN, batch_token=BATCH, slot=0, script=script, init=(), inputs=(), cores=1, python=python, env={},
            gentle=gentle,
        )  # fmt: skip
    (folder / "attempts" / TOKEN / "run.sh").write_text(text)
    words = f". ./attempts/{TOKEN}/run.sh; ( stage ) && ( payload )"
    if path is not None:
        words = f". ./attempts/{TOKEN}/run.sh; ( stage ) && PATH={path} && ( payload )"
    ran = subprocess.run(
        [shutil.which(shell[0]) or shell[0], *shell[1:], "-c", words],
        cwd=folder, capture_output=True, check=False, timeout=60, start_new_session=True,
    )  # fmt: skip
    assert (ran.returncode, ran.stderr) == (0, b""), "nothing of it is heard in the job's own output"
    return json.loads(ran.stdout)


@pytest.mark.parametrize("shell", SHELLS, ids=lambda shell: shell[0])
@pytest.mark.parametrize("build", [False, True], ids=["job", "build"])
def test_it_runs_as_nice_and_on_as_many_cores_as_the_inventory_says(
    tmp_path: Path, shell: list[str], build: bool
) -> None:
    found = run(tmp_path, shell, gently(5, "idle", 1), build=build)
    assert found["nice"] == BEFORE + 5
    assert found["io"] == "idle"
    assert len(found["cpus"]) < len(ALL) or len(ALL) == 1
    assert ALL[-1] in found["cpus"], "the first core is left to the devices"
    if found["group"] is not None:
        assert found["group"] == "5", "else it would be nice only among the processes of its own session"


def test_best_effort_is_the_least_of_its_class(tmp_path: Path) -> None:
    assert run(tmp_path, SHELLS[0], gently(0, "best-effort", None))["io"] == "best-effort: prio 7"


def test_without_a_word_nothing_changes(tmp_path: Path) -> None:
    assert gently(0, None, None) == []
    found = run(tmp_path, SHELLS[0], [])
    assert (found["nice"], found["cpus"]) == (BEFORE, ALL)


def test_more_cores_than_there_are_is_all_of_them(tmp_path: Path) -> None:
    assert run(tmp_path, SHELLS[0], gently(0, None, 1000))["cpus"] == ALL


@pytest.mark.parametrize("shell", SHELLS[:2], ids=lambda shell: shell[0])
@pytest.mark.parametrize("there", [(), ("nice",), ("nice", "cat", "sort", "tail", "tr", "taskset")], ids="+".join)
def test_tools_that_a_node_lacks_are_left_out_and_the_job_runs(
    tmp_path: Path, shell: list[str], there: tuple[str, ...]
) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in (*there, *(["true"] if there else [])):
        (tools / name).symlink_to(shutil.which(name) or "")
    found = run(tmp_path / "room", shell, gently(5, "idle", 1), path=str(tools))
    assert found["io"] != "idle"
    assert found["nice"] == (BEFORE + 5 if "nice" in there else BEFORE)
    assert (len(found["cpus"]) < len(ALL)) is ("taskset" in there and len(ALL) > 1)


def test_a_job_is_told_no_more_cores_than_it_may_use() -> None:
    facts = Facts(cores=16)
    assert merge(NodeEntry("a", core_cap=8), facts).cores == 8
    assert merge(NodeEntry("a", core_cap=8, cores=4), facts).cores == 4
    assert merge(NodeEntry("a", core_cap=99), facts).cores == 16
