"""`nodes`: the table, and what may be done to a node without running anything on it."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any, ClassVar

import click

from distribute_ssh.cli.app import App
from distribute_ssh.cli.group import Family, Sections, Verb
from distribute_ssh.errors import UsageError
from distribute_ssh.model.job import NodeState
from distribute_ssh.model.units import iso, parse_until
from distribute_ssh.views.document import document
from distribute_ssh.views.machines import nodes_table
from distribute_ssh.views.owners import owner_data, owners_text


class Nodes(Family):
    """`distribute nodes`."""

    sections: ClassVar[Sections] = {
        "Commands": {
            "probe": ("machines", "Ask nodes anew what they are and have."),
            "trust": ("machines", "Show a node's host key, and trust it."),
            "drain": ("nodes", "Give a node no more jobs."),
            "undrain": ("nodes", "Give a drained node jobs again."),
            "doctor": ("doctor", "Examine nodes step by step."),
            "alias": ("alias", "Let people at a workstation pause it from there."),
        }
    }


@click.group(cls=Nodes, invoke_without_command=True)
@click.option("-v", "--verbose", is_flag=True, help="Also what was read of their owners, their hours, how gentle.")
@click.pass_context
def nodes(context: click.Context, verbose: bool) -> None:
    """Show the nodes: what they are, what they do, why they do not.

    Nothing is asked of them: it is what a coordinator or a probe saw last.
    """
    if context.invoked_subcommand is not None:
        return
    app, now = context.ensure_object(App), time.time()
    found = _nodes(app, now)
    app.answer(
        document(nodes=found),
        lambda: "".join(
            [nodes_table(found, now, width=app.width, colour=app.colour), owners_text(found, now) if verbose else ""]
        ),
        [node["name"] for node in found],
    )


def _nodes(app: App, now: float) -> list[dict[str, Any]]:
    from distribute_ssh.coordination.snapshot import TAKEN, snapshot
    from distribute_ssh.node import probe

    rows, pauses = app.queue.nodes(), app.pauses(now)
    attempts = [attempt for attempt in app.queue.live_attempts() if attempt.state in TAKEN]
    jobs = {job.id: job.name for job in app.queue.jobs_by_id({attempt.job_id for attempt in attempts})}
    batches = {batch.id: batch.name for batch in app.queue.batches()} if attempts else {}
    found = []
    known = app.known_nodes
    mine = app.actor.node if app.actor else None  # the key of a workstation shows that workstation
    for entry, view in zip(known.nodes, snapshot(app.queue, known, now).nodes, strict=True):
        if mine is not None and mine.casefold() != entry.name.casefold():
            continue
        row = rows.get(entry.name)
        facts = probe.Facts.from_json(row.facts) if row and row.facts else probe.Facts()
        unknown = not view.probed and view.state is NodeState.UP
        found.append(
            {
                "name": view.name,
                "state": NodeState.UNREACHABLE if unknown else view.state,
                "reason": "not reached yet: distribute nodes probe" if unknown else view.reason,
                "capabilities": sorted(view.capabilities),
                "cores": view.cores,
                "memory_mb": view.memory_mb,
                "gpus": [
                    {
                        "index": gpu.index,
                        "vendor": gpu.vendor,
                        "model": gpu.model,
                        "memory_mb": gpu.memory_mb,
                        "uuid": gpu.uuid,
                        "used_by": gpu.used_by if gpu.used_until > now else None,
                    }
                    for gpu in probe.merge(entry, facts).gpus
                ],
                "slots": view.slots,
                "running": [
                    f"{batches.get(attempt.batch_id, '?')}/{jobs.get(attempt.job_id, '?')}"
                    for attempt in attempts
                    if attempt.node == view.name
                ],
                "given": [
                    asdict(attempt.share) if attempt.share else None
                    for attempt in attempts
                    if attempt.node == view.name
                ],
                "paused_until": iso(pauses[view.name].until) if view.name in pauses else None,
                "last_seen": iso(row.last_seen) if row and row.last_seen else None,
                "probed": view.probed,
                **owner_data(entry, row.activity if row else None, now),
            }
        )
    return found


@click.command(cls=Verb)
@click.argument("node")
@click.option("--reason", metavar="TEXT", help="What people are told.")
@click.option("--until", "end", metavar="TIME", help="Its end: 18:00, 2025-03-31, 2025-03-31T18:00.")
@click.pass_obj
def drain(app: App, node: str, reason: str | None, end: str | None) -> None:
    """Give a node no more jobs. Those that run there go on to their end."""
    entry = app.nodes.node(node)
    from distribute_ssh.coordination.snapshot import TAKEN

    try:
        until = None if end is None else parse_until(end, time.time())
    except ValueError as error:
        raise UsageError(str(error)) from None
    reason = reason or f"drained by {app.user}"
    with app.queue.transaction() as change:
        change.node(entry.name, drained=reason, drained_until=until)
        change.tell_act(time.time(), app.user, f"drained: {reason}", node=entry.name)
    running = sum(attempt.state in TAKEN for attempt in app.queue.live_attempts(entry.name))
    app.say(f"{entry.name} gets no more jobs" + (f"; {running} there go on to their end" if running else ""))
    content = document(node=entry.name, drained=reason, until=None if until is None else iso(until))
    app.answer(content, lambda: f"{entry.name} drained\n", [entry.name])


@click.command(cls=Verb)
@click.argument("node")
@click.pass_obj
def undrain(app: App, node: str) -> None:
    """Give a drained node jobs again."""
    entry = app.nodes.node(node)
    with app.queue.transaction() as change:
        change.node(entry.name, drained=None, drained_until=None)
        change.tell_act(time.time(), app.user, "undrained", node=entry.name)
    if not entry.enabled:
        app.say(f"{entry.name} still gets none: the inventory says `enabled: false`")
    app.answer(document(node=entry.name, drained=None), lambda: f"{entry.name} undrained\n", [entry.name])
