"""A study to write for a cluster, and stand-ins for what a cluster has: each notes what it is asked, and does it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.cli.conftest import Call

# Runs what is submitted at once, from a copy of the script elsewhere, in the folder it was submitted in: as Slurm does.
SBATCH = r"""#!/bin/bash
for script; do :; done
number=$(($(cat "$SPOOL/number" 2>/dev/null || echo 0) + 1)); echo $number > "$SPOOL/number"
echo "$number ${PWD##*/} $*" >> "$SPOOL/submitted"
cp "$script" "$SPOOL/job$number"
export SLURM_JOB_ID=$number SLURM_CPUS_ON_NODE=3
last=$(sed -n 's/^#SBATCH --array=0-//p' "$script")
for task in $(seq 0 "${last:-0}"); do
    [ -z "$last" ] || export SLURM_ARRAY_TASK_ID=$task
    bash "$SPOOL/job$number" >> "$SPOOL/printed$number" 2>&1 </dev/null; echo $? >> "$SPOOL/codes"
done
echo $number
"""
SQUEUE = """#!/bin/sh
cat "$SPOOL/queued" 2>/dev/null
"""
# Makes what a container would see: the folders that are bound, alone; a link out of them leads nowhere.
APPTAINER = r"""#!/bin/bash
printf '%s\n' "$@" > "$SPOOL/arguments"
while [ $# -gt 2 ]; do
    [ "$1" != --bind ] || binds=$2
    shift
done
[ -f "$1" ] || exit 99
root=$(mktemp -d "$SPOOL/root.XXXXXX")
IFS=, read -ra binds <<< "$binds"
for bind in "${binds[@]}"; do
    [ -d "${bind%%:*}" ] || exit 98
    mkdir -p "$root${bind#*:}" && cp -pR "${bind%%:*}/." "$root${bind#*:}/"
done
(cd "$root/input" && for each in *; do echo "$each=$(cat "$each" 2>&1)"; done) > output/seen
echo "$2" > output/argument
find . -maxdepth 2 -path './mnt_*/*' > output/mounts
for bind in "${binds[@]}"; do case $bind in mnt_*) touch "${bind%%:*}/left";; esac; done
exit "${CODE:-0}"
"""
# The same machine is the cluster: what follows the first colon is a folder below $SPOOL/home.
RSYNC = r"""#!/bin/bash
args=()
for each; do case $each in ana@hpc:*) each=$SPOOL/home/${each#*:};; esac; args+=("$each"); done
exec /usr/bin/rsync "${args[@]}"
"""

META = "meta: {namespace: ana, batch_name: pi, capabilities: []}\n"
IMAGE = """\
apptainer:
  initialize: {sif: solver.sif, required_files: [mesh.dat, case.dat]%s}
  jobs:
    - {name: one, required_files: [{path: own.dat, alias: case.dat}]}
    - name: two
"""
PYTHON = """\
python:
  initialize: {build_file: build.py, required_files: [mesh.dat, case.dat]}
  jobs:
    - {name: "n-{n}", file: job.py, sweep: {n: [1, 2]}, env: {WORD: "it's {n}"}}
    - {name: own, file: job.py, required_files: [{path: own.dat, alias: case.dat}], env: {WORD: x}}
"""
BUILD = """\
import os
assert sorted(os.listdir()) == ["build.py", "distribute_save", "initial_files", "input"], os.listdir()
print("building", sorted(os.listdir("input")))
os.mkdir("made")
open("made/solver", "w").write("solver")
"""
JOB = """\
import json, os, sys
found = {name: open(f"input/{name}").read() for name in sorted(os.listdir("input"))}
told = {key: os.environ.get(key) for key in ("WORD", "DISTRIBUTE_JOB_NAME", "DISTRIBUTE_PARAM_N", "OMP_NUM_THREADS")}
seen = {"argument": sys.argv[1:], "input": found, "told": told, "here": sorted(os.listdir())}
json.dump(seen, open("distribute_save/seen.json", "w"))
open("made/solver", "w").write("spoilt")
"""


def lay_out(home: Path) -> Path:
    """Put what the jobs files name into a folder; returns it."""
    for name in ("solver.sif", "mesh.dat", "case.dat", "own.dat"):
        (home / name).write_text(name)
    (home / "build.py").write_text(BUILD)
    (home / "job.py").write_text(JOB)
    return home


def stand_in(home: Path) -> Mapping[str, str]:
    """Make the stand-ins; an environment with them in its PATH."""
    programs, spool = home / "bin", home / "spool"
    programs.mkdir()
    (spool / "home").mkdir(parents=True)
    for name, text in (
        ("sbatch", SBATCH),
        ("squeue", SQUEUE),
        ("apptainer", APPTAINER),
        ("singularity", APPTAINER),
        ("rsync", RSYNC),
    ):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    return os.environ | {"PATH": f"{programs}:{os.environ['PATH']}", "SPOOL": str(spool)}


def bash(cluster: Mapping[str, str], script: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(script), *arguments]
    return subprocess.run(command, env=cluster, cwd="/", capture_output=True, text=True, timeout=60, check=False)


def written(home: Path, call: Call, text: str, *options: str, out: str = "out") -> Path:
    """Write the folder of a batch."""
    (home / "jobs.yaml").write_text(META + text)
    answer = call("slurm", out, "jobs.yaml", *options)
    assert answer.code == 0, answer.err
    return home / out


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines()
