"""What storage keeps beside results: `job.json` of an attempt, `batch.json` of a batch. Public and versioned."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from distribute_ssh.model.job import OUTCOMES, Attempt, Batch, Build, Input, Job
from distribute_ssh.model.layout import aside, build_output, job_output
from distribute_ssh.model.units import iso
from distribute_ssh.node.probe import Facts
from distribute_ssh.plan.reconcile import after_end
from distribute_ssh.storage.archive import Parcel

SCHEMA = 1


def _time(at: float | None) -> str | None:
    return None if at is None else iso(at)


def _inputs(inputs: Iterable[Input]) -> list[dict[str, Any]]:
    return [
        {"alias": item.alias, "kind": item.kind, "size": item.size, "sha256": item.sha256} for item in inputs
    ]  # fmt: skip


def job_parcel(attempt: Attempt, job: Job, batch: Batch, facts: Facts) -> Parcel:
    """An ended attempt as it goes to storage: under its job's name if it decides the job, else beside it."""
    ended = attempt.ended_at or 0.0
    started = attempt.started_at or ended
    then = after_end(job, attempt, attempt.exit or "lost", None, ended)
    is_final = then.state in OUTCOMES
    exit_code = int(attempt.exit) if attempt.exit and attempt.exit.isdigit() else None
    record = {
        "schema": SCHEMA,
        "namespace": batch.namespace,
        "batch": batch.batch,
        "job": job.name,
        "submitter": batch.submitter,
        "attempt": attempt.number,
        "attempt_id": attempt.token,
        "node": attempt.node,
        "state": str(then.state if is_final else "failed"),
        "reason": then.reason,
        "exit_code": exit_code,
        "started_at": _time(started),
        "finished_at": _time(ended),
        "seconds": round(ended - started, 3),
        "input_hash": job.input_hash,
        "given": asdict(attempt.share) if attempt.share else None,
        "env": dict(job.env),
        "inputs": _inputs([*([job.script] if job.script else []), *job.inputs]),
        "build": {"hash": batch.build_hash, "inputs": _inputs([batch.script, *batch.init])},
        "node_facts": {
            "hostname": facts.hostname,
            "os": facts.os,
            "kernel": facts.kernel,
            "machine": facts.machine,
            "cores": facts.cores,
            "memory_mb": facts.memory_mb,
            "tools": dict(facts.tools),
        },
    }
    folder = job.name if is_final else aside(job.name, attempt.number)
    return Parcel(attempt.token, batch.namespace, batch.batch, folder, job_output(job.name), record)


def build_parcel(build: Build, batch: Batch) -> Parcel:
    """A build's log as it goes to storage."""
    return Parcel(build.token, batch.namespace, batch.batch, None, build_output(batch.batch, build.node), {})


def batch_record(batch: Batch, status: dict[str, Any], definition: dict[str, Any]) -> dict[str, Any]:
    """`batch.json`: how the batch went, from its entry in the document of `status --json`, and what was asked for.

    `definition` is what a lost queue is made anew from (`store.restoring`).
    """
    return {
        "schema": SCHEMA,
        "kind": batch.kind,
        "capabilities": sorted(batch.capabilities),
        "build": {"hash": batch.build_hash, "inputs": _inputs([batch.script, *batch.init])},
        **status,
        "definition": definition,
    }
