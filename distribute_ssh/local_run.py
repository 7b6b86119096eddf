"""A batch on this machine, for debugging: no queue and no ssh, but the scripts that nodes run, and their wrapper."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from distribute_ssh.errors import NodeError, StoreError, UsageError
from distribute_ssh.local_folder import ROOM, remove
from distribute_ssh.model import capability
from distribute_ssh.model.fileref import shown
from distribute_ssh.model.inventory import NodeEntry
from distribute_ssh.model.job import Attempt, AttemptState, Batch, Build, BuildState, Input, Job, State
from distribute_ssh.model.jobsfile import BatchSpec
from distribute_ssh.model.layout import OUTPUT, SAVE, attempt_folder, blob, build_output, job_output, slot_folder
from distribute_ssh.model.resources import Share
from distribute_ssh.node import probe
from distribute_ssh.node.channel import library
from distribute_ssh.node.given import Given, given
from distribute_ssh.node.local import LocalLink, clean_environment
from distribute_ssh.node.process import GRACE
from distribute_ssh.node.script import Scripts
from distribute_ssh.store.spool import Spool, StagedBatch, StagedJob, stage

_LIBRARY = "lib"
_LOOK = 0.05  # seconds between looks at what it printed


@dataclass(frozen=True, slots=True)
class Step:
    """A build or a job that ended."""

    name: str
    state: State  # done, failed, timeout, or killed: by Ctrl-C
    exit_code: int | None
    seconds: float
    command: str
    results: Path  # a job's folder; of a build, its output

    def as_data(self) -> dict[str, Any]:
        """What JSON can hold of it."""
        return {
            "name": self.name,
            "state": self.state.value,
            "exit_code": self.exit_code,
            "seconds": round(self.seconds, 3),
            "command": self.command,
            "results": str(self.results),
        }


def facts_here(entry: NodeEntry) -> probe.Facts:
    """What this machine is and has, asked as a node is. Raises NodeError."""
    ended = asyncio.run(LocalLink(entry.name).run(probe.script(entry, {}), limit=probe.TIME_LIMIT))
    try:
        return probe.parse(ended.stdout)
    except ValueError as error:
        raise NodeError(f"{entry.name}: {error}") from error


def require_tools(spec: BatchSpec, offer: probe.Offer) -> None:
    """Raise UsageError where this machine has not what such a batch is run by. Nothing else that it asks for counts."""
    if lacking := capability.missing(capability.needed(spec.kind), offer.capabilities):
        also = " and no singularity" if "apptainer" in lacking else ""
        raise UsageError(f"{spec.name} cannot run here: this machine has no {', '.join(lacking)}{also}")


class LocalRun:
    """Runs a batch in a folder that was just made.

    `tell` gets words for people, `show` what builds and jobs print while they print it.
    """

    def __init__(
        self,
        spec: BatchSpec,
        folder: Path,
        entry: NodeEntry,
        facts: probe.Facts,
        *,
        who: str,
        tell: Callable[[str], None],
        show: Callable[[bytes], None],
    ) -> None:
        self.folder = folder.absolute()
        self.interrupted = False
        self._room = self.folder / ROOM
        self._entry = replace(entry, slots=1)  # one job after the other: each has the whole machine
        self._found = len(facts.gpus)
        self._offer = probe.merge(self._entry, facts)
        self._scripts = Scripts(self._entry, facts, str(self._room))
        self._tell = tell
        self._show = show
        self._queue = f"local{secrets.token_hex(4)}"
        self._positions = {job.name: position for position, job in enumerate(spec.jobs)}
        self._spec = spec
        self._who = who
        self._boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()

    def run(self, names: Sequence[str]) -> Iterator[Step]:
        """Build, then run these jobs in the order of the file; yields each as it ends. After a failed build, none.

        Raises UsageError for a file that cannot be read, StoreError for a disk that cannot be written.
        """
        spec = replace(self._spec, jobs=tuple(job for job in self._spec.jobs if job.name in set(names)))
        with self._writing():
            for each in ("files", "batches", _LIBRARY):
                (self._room / each).mkdir()
            for name, text in library().items():
                (self._room / _LIBRARY / name).write_text(text)
            spool = Spool(self._room / "spool")
            staged = stage(spec, spool)
            for item in _inputs(staged):
                place = self._room / blob(item.sha256)
                if not place.exists():
                    spool.path_of(item.sha256).rename(place)
                    place.chmod(0o600)
        batch = self._batch(staged)
        built = self._build(batch)
        yield built
        if built.state is State.DONE:
            for job in staged.jobs:
                yield self._job(batch, job)
                if self.interrupted:
                    return

    def _batch(self, staged: StagedBatch) -> Batch:
        spec = self._spec
        return Batch(
            id=1, token=self._token(), namespace=spec.namespace, batch=spec.batch, submitter=self._who,
            submitted_at=time.time(), kind=spec.kind, capabilities=frozenset(spec.capabilities), matrix=None,
            script=staged.script, init=staged.init, mounts=spec.required_mounts, build_hash=staged.build_hash,
            env=staged.env,
        )  # fmt: skip

    def _build(self, batch: Batch) -> Step:
        build = Build(1, self._token(), batch.id, batch.token, self._entry.name, batch.build_hash, BuildState.STARTING)
        command = self._scripts.build_command(batch)
        self._tell(f"build: {command}")
        script = self._scripts.build(build, batch, cores=self._offer.cores)
        state, code, seconds = self._attempt(build.token, script, None)
        place = self.folder / build_output(batch.batch, build.node)
        self._keep(build.token, place)
        return Step("build", state, code, seconds, command, place)

    def _job(self, batch: Batch, staged: StagedJob) -> Step:
        position = self._positions[staged.name]
        job = Job(
            id=position + 1, batch_id=batch.id, position=position, name=staged.name, state=State.QUEUED,
            input_hash=staged.input_hash, script=staged.script, inputs=staged.inputs, env=staged.env,
            time_limit=staged.time_limit, resources=staged.resources,
        )  # fmt: skip
        part = self._part(job, batch)
        attempt = Attempt(
            id=job.id, token=self._token(), job_id=job.id, batch_id=batch.id, batch_token=batch.token, number=1,
            node=self._entry.name, slot=0, state=AttemptState.STARTING,
        )  # fmt: skip
        command = self._scripts.command(attempt.token, batch, part)
        slot = self._room / slot_folder(batch.token, 0)
        self._tell(f"{job.name}: cd {shlex.quote(str(slot))} && {command}")
        script = self._scripts.job(attempt, job, batch, part)
        state, code, seconds = self._attempt(attempt.token, script, job.time_limit)
        place = self.folder / job.name
        saved = self._room / attempt_folder(attempt.token) / SAVE
        with self._writing():
            if saved.is_dir():
                saved.rename(place)
            else:
                place.mkdir()
        self._keep(attempt.token, place / job_output(job.name))
        return Step(job.name, state, code, seconds, command, place)

    def _part(self, job: Job, batch: Batch) -> Given:
        """What it would be given of a node like this one; more than there is, if it asks for more."""
        asked, share = job.resources, None
        if asked is not None:
            gpus = tuple(gpu.index for gpu in self._offer.gpus[: asked.gpus])
            share = Share(asked.cores, asked.memory_mb, gpus, asked.disk_mb)
        return given(share, self._offer, found=self._found, has_gpu="gpu" in batch.capabilities)

    def _token(self) -> str:
        return f"{self._queue}-{secrets.token_hex(8)}"

    def _attempt(self, token: str, script: str, limit: float | None) -> tuple[State, int | None, float]:
        """Let the wrapper run a script to its end, or to ours; how it ended."""
        home = self._room / attempt_folder(token)
        with self._writing():
            home.mkdir()
            (home / "run.sh").write_text(script, errors="surrogateescape")
        began = time.monotonic()
        wrapper = self._shell("wrapper.sh", token, _LIBRARY)
        ending: State | None = None
        with contextlib.ExitStack() as opened:
            opened.callback(self._end, token)  # also what it left running, as on a node
            output = None
            while True:
                try:
                    is_over = wrapper.poll() is not None
                    if output is None and (home / OUTPUT).exists():
                        output = opened.enter_context((home / OUTPUT).open("rb"))
                    # A piece at a time: of one that prints faster than it is read, the end would never be looked for.
                    if output and (data := output.read(1 << 16)):
                        self._show(data)
                    elif is_over:
                        break
                    else:
                        time.sleep(_LOOK)  # a file that grows tells nobody, and neither does a deadline
                    if limit is not None and not is_over and not ending and time.monotonic() - began > limit:
                        ending = State.TIMEOUT
                        self._end(token)
                except KeyboardInterrupt:
                    self.interrupted, ending = True, State.KILLED
                    self._end(token)
            seconds = time.monotonic() - began
        # Without one where the wrapper could not even begin: a disk on which no folder can be made.
        found = "".join(record.suffix[1:] for record in home.glob("exit.*"))
        code = int(found) if found.isdigit() else None
        return ending or (State.DONE if code == 0 else State.FAILED), code, seconds

    def _end(self, token: str) -> None:
        self._shell("kill.sh", "0", token, str(GRACE), _LIBRARY).wait()

    def _shell(self, script: str, *words: str) -> subprocess.Popen[bytes]:
        # Of what we have in our environment, a job sees here what it would see on a node.
        env = clean_environment(os.environ) | {"DISTRIBUTE_NONCE": self._queue, "DISTRIBUTE_BOOT": self._boot}
        # Nobody listens to its events; a session of its own, so that Ctrl-C reaches us alone.
        start = ["/bin/sh", "-c", 'exec /bin/sh "$@" 3> /dev/null', "sh", f"{_LIBRARY}/{script}", *words]
        null = subprocess.DEVNULL
        return subprocess.Popen(
            start, cwd=self._room, env=env, stdin=null, stdout=null, stderr=null, start_new_session=True
        )

    def _keep(self, token: str, place: Path) -> None:
        output = self._room / attempt_folder(token) / OUTPUT
        with self._writing():
            if place.is_dir() and not place.is_symlink():  # saved by the job, under the name of its output
                remove(place)
            if output.exists():
                output.replace(place)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreError(f"{shown(self.folder)} cannot be written: {error.strerror}") from error


def _inputs(staged: StagedBatch) -> list[Input]:
    found = [staged.script, *staged.init]
    for job in staged.jobs:
        found += [*job.inputs, *([job.script] if job.script else [])]
    return found
