"""The script of a build or of a job on one node, of whichever kind its batch is. Pure.

Who runs a batch on this machine for debugging gets it from here as well: nothing else would be the very same command.
"""

from __future__ import annotations

import shlex

from distribute_ssh.model.inventory import NodeEntry
from distribute_ssh.model.job import Attempt, Batch, Build, Job
from distribute_ssh.node import container, shell
from distribute_ssh.node.given import Given
from distribute_ssh.node.probe import Facts


class Scripts:
    """Writes them for one node: from its entry in the inventory, what its probe found, and where our folder is."""

    def __init__(self, entry: NodeEntry, facts: Facts, root: str) -> None:
        self._site = entry.env
        self._slots = entry.slots
        self._root = root
        self._python = entry.python or "python3"
        self._container = container.program(facts.tools)
        self._gentle = shell.gently(entry.nice, entry.ionice, entry.core_cap)
        if entry.cluster is not None and entry.cluster.prologue:
            self._gentle = [entry.cluster.prologue, "gently="]

    def build(self, build: Build, batch: Batch, *, cores: int, shared: bool = False) -> str:
        """What sets a batch up; `shared`: its jobs may run beside each other, also where the node has one slot."""
        env = shell.build_environment(build, batch, self._site, cores, self._root)
        if batch.kind == "python":
            return shell.build_script(
                batch_token=build.batch_token, script=batch.script, init=batch.init,
                shared=shared or self._slots > 1, python=self._python, env=env, gentle=self._gentle,
            )  # fmt: skip
        program = self._container
        return container.build_script(
            token=build.token, batch_token=build.batch_token, image=batch.script, init=batch.init, mounts=batch.mounts,
            program=program, gentle=self._gentle,
            env=container.environment(env, token=build.token, root=self._root, program=program),
        )  # fmt: skip

    def job(self, attempt: Attempt, job: Job, batch: Batch, part: Given) -> str:
        """What runs a job with the part of the node that it was given."""
        env = shell.job_environment(attempt, job, batch, self._site, part, self._root)
        if batch.kind == "python":
            assert job.script is not None, "a python job has one"
            return shell.job_script(
                token=attempt.token, batch_token=attempt.batch_token, slot=attempt.slot, script=job.script,
                init=batch.init, inputs=job.inputs, cores=part.cores, python=self._python, env=env,
                time_limit=job.time_limit, gentle=self._gentle,
            )  # fmt: skip
        program = self._container
        return container.job_script(
            token=attempt.token, batch_token=attempt.batch_token, slot=attempt.slot, init=batch.init,
            inputs=job.inputs, mounts=batch.mounts, cores=part.cores, gpus=part.gpus, program=program,
            time_limit=job.time_limit, gentle=self._gentle,
            env=container.environment(env, token=attempt.token, root=self._root, program=program),
        )  # fmt: skip

    def build_command(self, batch: Batch) -> str:
        """What a build does, in a few words."""
        if batch.kind == "python":
            return f"{shlex.quote(self._python)} build.py"
        return f"{self._container} exec {container.IMAGE} ..., to look into it"

    def command(self, token: str, batch: Batch, part: Given) -> str:
        """The command line in the script of a job, as somebody would type it in its slot."""
        if batch.kind == "python":
            return f"{shlex.quote(self._python)} run.py {part.cores}"
        return shlex.join(
            container.command(
                token=token, program=self._container, cores=part.cores, mounts=batch.mounts, gpus=part.gpus
            )
        )
