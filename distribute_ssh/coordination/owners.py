"""What a tick makes of a node's owner: what was seen is written down, and pauses are asked for that nobody typed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import tzinfo

from distribute_ssh.coordination.books import Books
from distribute_ssh.coordination.evidence import Leased, Watched
from distribute_ssh.coordination.snapshot import snapshot
from distribute_ssh.model import capability
from distribute_ssh.model.hours import next_change, parse_hours
from distribute_ssh.model.job import AttemptState, OnNodeLoss, State
from distribute_ssh.model.owner import Activity
from distribute_ssh.model.units import format_duration
from distribute_ssh.plan.activity import for_activity, for_hours, seen, to_ask, was_ended
from distribute_ssh.plan.moving import Paused, moves
from distribute_ssh.plan.reconcile import Next
from distribute_ssh.plan.snapshot import WorkView


def take(books: Books, item: Watched) -> None:
    """Write down what was read."""
    row = books.queue.nodes().get(item.node)
    ignore = next((entry.ignore for entry in books.inventory.nodes if entry.name == item.node), ())
    before = (row and row.activity) or Activity()
    books.change.node(item.node, activity=seen(before, item.readings, books.now, ignore))


def heed(books: Books, item: Leased) -> None:
    """Write down that somebody ended a pause before its time. To be asked before the lease itself is written down."""
    row = books.queue.nodes().get(item.node)
    if row is not None and was_ended(row.lease, item.lease, books.now):
        books.change.node(item.node, activity=replace(row.activity or Activity(), resumed_at=books.now))


def ask(books: Books, zone: tzinfo | None = None) -> None:
    """Ask nodes to pause whose owner is there, or whose hours are over; `zone`: None for that of this machine."""
    nodes = [entry for entry in books.inventory.nodes if entry.pause_when_active or entry.hours is not None]
    rows, now = books.queue.nodes() if nodes else {}, books.now
    for entry in nodes:
        row = rows.get(entry.name)
        if row is None or row.request is not None or entry.name not in books.live:
            continue
        activity = row.activity or Activity()
        wishes = []
        if entry.pause_when_active:
            wishes.append(for_activity(activity, entry.pause_when_active, entry.max_pause, now))
        if entry.hours is not None:
            wishes.append(for_hours(entry.hours, activity, entry.max_pause, now, zone))
        request = to_ask(wishes, row.lease, activity.token, books.queue.new_token(), now)
        if request is not None:
            books.change.node(entry.name, request=request, activity=replace(activity, token=request.token))


def changes(books: Books, zone: tzinfo | None = None) -> list[float]:
    """When the hours of nodes begin or end."""
    texts = {entry.hours for entry in books.inventory.nodes if entry.hours is not None and entry.name in books.live}
    found = (next_change(parse_hours(text), books.now, zone) for text in texts)
    return [at for at in found if at is not None]


def move(books: Books) -> None:
    """Give up attempts that have been paused for long, where another node has a slot for their jobs at once.

    To be called when all slots were given away that waiting jobs can use.
    """
    paused = {each.token: each for each in _paused(books) if each.is_due}
    if not paused:
        return  # which is nearly every tick
    now = snapshot(books.queue, books.inventory, books.now, connected=books.open_nodes, holdoff=books.memory.holdoff)
    for token in moves(now, paused.values()):
        attempt, each = books.attempts[token], paused[token]
        why = f"it stood still on {each.node} for {format_duration(each.seconds)}: attempted elsewhere"
        books.again(attempt, books.jobs[attempt.job_id], Next(State.QUEUED, why, count_try=False))


def _paused(books: Books) -> Iterator[Paused]:
    after = {entry.name: entry.move_after for entry in books.inventory.nodes if entry.move_after}
    rows = books.queue.nodes() if after else {}
    for attempt in books.attempts.values():
        job = books.jobs.get(attempt.job_id)
        if attempt.node not in after or attempt.node not in books.live or attempt.state is not AttemptState.RUNNING:
            continue
        if job is None or job.attempt != attempt.number or job.state is not State.PAUSED or job.request is not None:
            continue
        lease = rows[attempt.node].lease if attempt.node in rows else None
        if lease is None or attempt.ending is not None or job.on_node_loss is OnNodeLoss.WAIT:
            continue
        batch, began = books.batches[attempt.batch_id], attempt.started_at or books.now
        since = max(lease.since, began)
        yield Paused(
            token=attempt.token,
            node=attempt.node,
            work=WorkView(
                batch_id=batch.id,
                name=batch.name,
                submitter=batch.submitter,
                submitted_at=batch.submitted_at,
                capabilities=frozenset(capability.needed(batch.kind, batch.capabilities, job.resources)),
                ready=1,
                resources=job.resources,
                waited=max(0.0, books.now - batch.submitted_at),
            ),
            seconds=books.now - since,
            worked=max(0.0, since - began - attempt.paused_seconds),
            move_after=after[attempt.node],
        )
