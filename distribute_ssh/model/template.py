"""The jobs files to start from: what `distribute template` writes. Both are valid as they are, but for their paths."""

from __future__ import annotations

_META = """\
# One batch: it is built once on each node, then its jobs run there, one per slot.
# Relative paths start from the folder of this file.

meta:
  batch_name: your_jobset_name      # results go to <storage>/<namespace>/<batch_name>/<job>/
  namespace: example_namespace      # usually your name or your project's
  matrix: ~                         # who is told at the end, in quotes: "@name:matrix.org"
  capabilities:                     # what a node must have
{capabilities}
"""

_OPTIONS = """\
  # For all jobs; a job may say otherwise for itself:
  # env: {OMP_NUM_THREADS: 4}
  # time_limit: 2h                  # a job that runs longer is stopped
  # max_attempts: 1                 # tries, while the job ends with a non-zero exit code
  # on_node_loss: reschedule        # or wait: until a node that went silent is back
  # resources: {cores: 4, memory: 16G, gpus: 1, gpu_memory: 16G, disk: 50G}  # share a node; left out: all of it
"""

_PYTHON = """\
python:
  initialize:
    build_file: /path/to/build.py   # runs once per node, before the first job: compile, unpack, download
    # required_files:               # files and folders for the build and every job; they are in initial_files/
    #   - mesh.dat
    #   - path: settings_v3.json
    #     alias: settings.json      # its name on the node
  jobs:
    - name: job_1
      file: execute_job.py          # runs as `python3 run.py CORES`; what it leaves in distribute_save/ is kept
    - name: job_2
      file: execute_job_2.py
      # required_files:             # for this job only; with those of initialize they are in input/
      #   - job_2.json
    # One entry, six jobs (all combinations; with `zip: true` beside sweep, pairs):
    # - name: re_{re}_mesh_{mesh}
    #   file: execute_job.py
    #   sweep:
    #     re: [100, 400, 1000]
    #     mesh: [64, 128]
"""

_APPTAINER = """\
apptainer:
  initialize:
    sif: /path/to/image.sif         # each job runs its app `distribute`, with the number of cores as argument
    # required_files:               # files and folders for every job; they are in /input
    #   - mesh.dat
    #   - path: settings_v3.json
    #     alias: settings.json      # its name on the node
    # required_mounts:              # folders inside the container that jobs write to, besides /distribute_save
    #   - /solver/scratch
  jobs:
    - name: job_1                   # what it leaves in /distribute_save is kept
      required_files:               # for this job only; with those of initialize they are in /input
        - path: job_1.json
          alias: config.json
    - name: job_2
      required_files:
        - path: job_2.json
          alias: config.json
    # One entry, six jobs (all combinations; with `zip: true` beside sweep, pairs):
    # - name: re_{re}_mesh_{mesh}
    #   sweep:
    #     re: [100, 400, 1000]
    #     mesh: [64, 128]
"""

_CAPABILITIES = ("gfortran", "python3", "apptainer")


def python_template() -> str:
    """Return a jobs file for scripts: a build script, then a script for each job."""
    return _file(_PYTHON)


def apptainer_template() -> str:
    """Return a jobs file for an apptainer image."""
    return _file(_APPTAINER)


def _file(work: str) -> str:
    capabilities = "\n".join(f"    - {name}" for name in _CAPABILITIES)
    return _META.format(capabilities=capabilities) + _OPTIONS + "\n" + work
