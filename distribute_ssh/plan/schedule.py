"""Who runs next, and where: `place` gives away the free slots, `explain` says why a batch waits, by the same rules.

First comes what a node can run at all (`refusal`). Then every pair of a waiting batch and a free slot has a rank, and
the slots are given away one by one, each time to the best pair:

1. *Starving needs.* If no job with the same needs got a slot for a day, one does.
2. *Scarcity.* What few nodes can run goes before what many can. Needs that more than two thirds of the nodes meet are
   not scarce, and below that only halvings count: one node more or less must not make one batch the master of another.
3. *Fairness.* The submitter who had least lately, in doublings of ten minutes on one node; what this call gives away
   counts at once. A day without a new slot makes up for one doubling.
4. *Waste.* The node that leaves the least scarce capabilities idle.
5. *Affinity.* The batch that is built on the node, unless the other one has been without any slot for ten minutes.
6. The submitter who had least, to the second; then the oldest batch.

Of nodes that are equal so far the emptiest is taken, then the one with most cores, then the first by name.

Nobody starves: jobs with the same needs together wait no longer than a day and the longest job, and among them nobody
is overtaken by a batch that came later by more days than its submitter is doublings ahead.
"""

from __future__ import annotations

from collections import defaultdict

from distribute_ssh.errors import NoMatchError
from distribute_ssh.model.units import format_duration
from distribute_ssh.plan.deal import Deal, Placement, Standing, doublings
from distribute_ssh.plan.eligible import (
    AWAY,
    Code,
    Reason,
    can_ever_run,
    closure,
    never_reason,
    refusal,
)
from distribute_ssh.plan.snapshot import NodeView, Snapshot, WorkView

__all__ = [
    "Code",
    "Placement",
    "Reason",
    "can_ever_run",
    "explain",
    "explain_node",
    "never_reason",
    "place",
    "refusal",
]


def place(snapshot: Snapshot, now: float) -> list[Placement]:
    """Give away the free slots, in the order above; each placement is for the next ready job of its batch.

    No slot is given twice, no batch gets more than `ready`, and no slot stays free that a ready job could use. The same
    snapshot and time give the same answer.
    """
    return list(Deal(snapshot, now).placements())


def explain(snapshot: Snapshot, batch_id: int, now: float) -> list[Reason]:
    """Why jobs of a batch wait: first the batch as a whole, then what every node has to say to it.

    A node that could take a job, but none is left for it, says nothing. Empty if nothing of the batch waits.
    """
    work = next((work for work in snapshot.work if work.batch_id == batch_id), None)
    if work is None:
        return []
    aside = _set_aside(work, now)
    if not work.ready:
        return aside
    given = _given(snapshot, now)
    deal = Deal(snapshot, now)  # as it stood before anything was given away
    unserved = work.ready - sum(takers.count(batch_id) for takers in given.values())
    reasons = []
    for node in snapshot.nodes:
        takers = given[node.name]
        if batch_id in takers:
            reasons.append(Reason(Code.NEXT, "has a slot for it: it starts now", node.name))
        elif no := refusal(node, work):
            reasons.append(no)
        elif unserved:
            reasons.append(Reason(Code.BEHIND, _precedence(deal, takers[0], batch_id, node), node.name))
    return [_overall(snapshot, work, unserved, reasons), *aside, *reasons]


def explain_node(snapshot: Snapshot, node: str, now: float) -> list[Reason]:
    """Why a node starts nothing now: one sentence about the node, or else one for every waiting batch.

    Raises NoMatchError if the snapshot has no such node.
    """
    view = next((view for view in snapshot.nodes if view.name == node), None)
    if view is None:
        known = ", ".join(view.name for view in snapshot.nodes) or "there are none"
        raise NoMatchError(f"no node is called {node!r}", hint=f"the nodes: {known}")
    if no := closure(view):
        return [no]
    takers = set(_given(snapshot, now)[node])
    if takers:
        return [Reason(Code.NEXT, f"starts {work.name} now", node) for work in snapshot.work if work.batch_id in takers]
    return [_passed_over(view, work, now) for work in snapshot.work] or [Reason(Code.IDLE, "is idle", node)]


def _given(snapshot: Snapshot, now: float) -> dict[str, list[int]]:
    """Who gets the free slots of each node, in the order of giving."""
    given = defaultdict[str, list[int]](list)
    for placement in place(snapshot, now):
        given[placement.node].append(placement.batch_id)
    return given


def _set_aside(work: WorkView, now: float) -> list[Reason]:
    """Jobs that wait for no node."""
    reasons = []
    if work.later:
        first = "" if work.next_at is None else f", the first in {format_duration(work.next_at - now)}"
        reasons.append(Reason(Code.LATER, f"{_jobs(work.later)} will be tried again{first}"))
    if work.held:
        reasons.append(Reason(Code.HELD, f"{_jobs(work.held)} held back until somebody says `release`"))
    return reasons


def _overall(snapshot: Snapshot, work: WorkView, unserved: int, reasons: list[Reason]) -> Reason:
    if unserved < work.ready:
        return Reason(Code.NEXT, f"{_jobs(work.ready - unserved)} of {work.ready} can start now")
    if never := never_reason(snapshot.nodes, work.capabilities, work.batch_id):
        return never
    able = [reason for reason in reasons if reason.code not in (Code.NO_CAPABILITY, Code.BUILD_FAILED)]
    busy = [reason for reason in able if reason.code not in AWAY]
    behind = [reason for reason in busy if reason.code is Code.BEHIND]
    if behind:
        return Reason(Code.BEHIND, f"on {behind[0].node} {behind[0].text}")
    if len(able) == 1:
        return Reason(able[0].code, f"{able[0].node}, the only node that can run it, {able[0].text}")
    if busy:
        away = f", and {len(able) - len(busy)} more away" if len(able) > len(busy) else ""
        return Reason(Code.BUSY, f"{len(busy)} of the nodes that can run it are busy{away}")
    return Reason(Code.AWAY, f"all {len(able)} nodes that can run it are away")


def _precedence(deal: Deal, winner: int, loser: int, node: NodeView) -> str:
    """Why one batch goes before another on a node: the first rule that tells them apart."""
    first, second = deal.standings[winner], deal.standings[loser]
    needs = " and ".join(sorted(first.work.capabilities))
    had, other_had = (deal.usage.get(one.work.submitter, 0.0) for one in (first, second))
    amounts = f"{format_duration(had)} on a node, {second.work.submitter} {format_duration(other_had)}"
    less = f"{first.work.submitter} had less lately ({amounts})"
    waited = f"it got no slot for {format_duration(first.waited)}"

    def by_rule(one: Standing, usage: float) -> tuple[float, ...]:
        return (
            one.work.capabilities not in deal.starving,
            -one.level,
            doublings(usage) - one.patience,
            one.waste(deal.scarcity.wealth(node.capabilities)),
            one.yields(is_built=one.work.batch_id in node.built),
            usage,
            one.work.submitted_at,
        )

    words = (
        "no job with its needs got a slot for a day",
        f"only {deal.scarcity.offers(first.work.capabilities)} of {deal.scarcity.nodes} nodes have {needs}",
        less if doublings(had) < doublings(other_had) else waited,
        "it leaves less of the node idle",
        "it is built there already",
        less,
        "it is older",
    )
    turn = "slots are given out in turn"  # it was ahead before others had been served
    for mine, theirs, why in zip(by_rule(first, had), by_rule(second, other_had), words, strict=True):
        if mine != theirs:
            return f"{first.work.name} goes first: {why if mine < theirs else turn}"
    return f"{first.work.name} goes first: {turn}"


def _passed_over(node: NodeView, work: WorkView, now: float) -> Reason:
    no = refusal(node, work) if work.ready else next(iter(_set_aside(work, now)), None)
    if no is None:
        return Reason(Code.IDLE, f"{work.name}: could run here, but its jobs start elsewhere", node.name)
    return Reason(no.code, f"{work.name}: {no.text}", node.name)


def _jobs(count: int) -> str:
    return "1 job" if count == 1 else f"{count} jobs"
