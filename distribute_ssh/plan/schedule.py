"""Who runs next, and where: `place` gives away what is free, `explain` says why a batch waits, by the same rules.

First comes what a node can run at all (`refusal`). Then every pair of waiting jobs and a place for one has a rank, and
the places are given away one by one, each time to the best pair:

1. *Starving needs.* If no job with the same needs got a slot for a day, one does. Where others ask for less, an hour is
   enough: they would take whatever falls free before it is enough for a large job. So one does that least is wasted on,
   and where none has room, what there is on the nearest node is kept for it until it fits.
2. *Scarcity.* What few nodes can run goes before what many can. Needs that more than two thirds of the nodes meet are
   not scarce, and below that only halvings count: one node more or less must not make one batch the master of another.
3. *Fairness.* The submitter who had least lately, in doublings of ten minutes on one node; what this call gives away
   counts at once, a part of a node as that part. A day without a new slot makes up for one doubling, and so does each
   of the first three days since a batch was submitted.
4. *Waste.* The node that leaves the least scarce capabilities idle.
5. *Affinity.* The batch that is built on the node, unless the other one has been without any slot for ten minutes.
6. The submitter who had least, to the second; then the oldest batch; in a batch the jobs that ask for most.

Of nodes that are equal so far a job that takes a whole slot goes to the emptiest, then to the one with most cores; a
job that takes a part to one where others are, then to the one with least left, so that whole machines stay free. Last
comes the name.

Nobody starves: jobs with the same needs together wait no longer than a day and the longest job (large ones longer by
the longest job for each other kind of large ones that waits longer), and among them nobody is overtaken by a batch that
came later by more days than its submitter is doublings ahead, and three.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from distribute_ssh.errors import NoMatchError
from distribute_ssh.model.units import format_duration
from distribute_ssh.plan.deal import DAY, Deal, Group, Kept, Placement, Standing, doublings
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
    """Give away what is free, in the order above; each placement is for the next ready job that asks for the same.

    Nothing is given twice, no batch gets more than `ready`, and nothing stays free that a ready job could use, but what
    is kept for a large one. The same snapshot and time give the same answer.
    """
    return list(Deal(snapshot, now).placements())


def explain(snapshot: Snapshot, batch_id: int, now: float) -> list[Reason]:
    """Why jobs of a batch wait: first the batch as a whole, then what every node has to say to it.

    A node that could take a job, but none is left for it, says nothing. Empty if nothing of the batch waits. Where jobs
    of the batch ask for different things, all that is once for each, and begins with what they ask for.
    """
    works = sorted((work for work in snapshot.work if work.batch_id == batch_id), key=lambda work: -_size(work))
    if not works:
        return []
    aside = _set_aside(works, now)
    waiting = [work for work in works if work.ready]
    played = _Played(snapshot, now)
    reasons: list[Reason] = []
    for work in waiting:
        found = _why(snapshot, work, played)
        if len(waiting) > 1:
            asked = work.resources.words if work.resources else "a whole slot"
            found = [replace(reason, text=f"{asked}: {reason.text}") for reason in found]
        reasons += found
    overall = [reason for reason in reasons if reason.node is None]
    return [*overall, *aside, *(reason for reason in reasons if reason.node is not None)]


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
    played = _Played(snapshot, now)
    takers = {batch_id for batch_id, _ in played.takers[node]}
    names = {work.batch_id: work.name for work in snapshot.work if work.batch_id in takers}
    if names:
        return [Reason(Code.NEXT, f"starts {name} now", node) for name in names.values()]
    reasons = (_passed_over(view, work, played, now) for work in snapshot.work)
    return list(dict.fromkeys(reasons)) or [Reason(Code.IDLE, "is idle", node)]


class _Played:
    """What one giving away comes to."""

    def __init__(self, snapshot: Snapshot, now: float) -> None:
        deal = Deal(snapshot, now)
        self.takers = defaultdict[str, list[Group]](list)  # of each node, in the order of giving
        for placement in deal.placements():
            self.takers[placement.node].append((placement.batch_id, placement.resources))
        self.kept = deal.kept
        self.before = Deal(snapshot, now)  # as it stood before anything was given away


def _why(snapshot: Snapshot, work: WorkView, played: _Played) -> list[Reason]:
    """Why jobs of a batch that ask for the same wait: first all in all, then for every node."""
    mine = work.batch_id, work.resources
    unserved = work.ready - sum(takers.count(mine) for takers in played.takers.values())
    reasons = []
    for node in snapshot.nodes:
        takers, kept = played.takers[node.name], played.kept.get(node.name)
        no = refusal(node, work)
        if mine in takers:
            reasons.append(Reason(Code.NEXT, "has a slot for it: it starts now", node.name))
        elif no and kept and (kept.work.batch_id, kept.work.resources) == mine:
            reasons.append(replace(no, text=f"{no.text}; what is free there is kept for it"))
        elif no:
            reasons.append(no)
        elif unserved and kept:
            reasons.append(_kept_from(node, kept))
        elif unserved:
            reasons.append(Reason(Code.BEHIND, _precedence(played.before, takers[0], mine, node), node.name))
    return [_overall(snapshot, work, unserved, reasons), *reasons]


def _kept_from(node: NodeView, kept: Kept) -> Reason:
    text = f"is kept free for {kept.work.name}, which has waited {format_duration(kept.waited)}"
    return Reason(Code.KEPT, text, node.name)


def _set_aside(works: Sequence[WorkView], now: float) -> list[Reason]:
    """Jobs of a batch that wait for no node."""
    reasons = []
    later, held = sum(work.later for work in works), sum(work.held for work in works)
    if later:
        next_at = min((work.next_at for work in works if work.later and work.next_at is not None), default=None)
        first = "" if next_at is None else f", the first in {format_duration(next_at - now)}"
        reasons.append(Reason(Code.LATER, f"{_jobs(later)} will be tried again{first}"))
    if held:
        reasons.append(Reason(Code.HELD, f"{_jobs(held)} held back until somebody says `release`"))
    return reasons


_UNABLE = (Code.NO_CAPABILITY, Code.TOO_SMALL, Code.BUILD_FAILED)


def _overall(snapshot: Snapshot, work: WorkView, unserved: int, reasons: list[Reason]) -> Reason:
    if unserved < work.ready:
        return Reason(Code.NEXT, f"{_jobs(work.ready - unserved)} of {work.ready} can start now")
    if never := never_reason(snapshot.nodes, work.capabilities, work.batch_id, work.resources):
        return never
    able = [reason for reason in reasons if reason.code not in _UNABLE]
    busy = [reason for reason in able if reason.code not in AWAY]
    for code, where in ((Code.BEHIND, "on "), (Code.KEPT, "")):
        passed = [reason for reason in busy if reason.code is code]
        if passed:
            return Reason(code, f"{where}{passed[0].node} {passed[0].text}")
    if len(able) == 1:
        return Reason(able[0].code, f"{able[0].node}, the only node that can run it, {able[0].text}")
    if busy:
        away = f", and {len(able) - len(busy)} more away" if len(able) > len(busy) else ""
        return Reason(Code.BUSY, f"{len(busy)} of the nodes that can run it are busy{away}")
    return Reason(Code.AWAY, f"all {len(able)} nodes that can run it are away")


def _precedence(deal: Deal, winner: Group, loser: Group, node: NodeView) -> str:
    """Why one batch goes before another on a node: the first rule that tells them apart."""
    first, second = deal.standings[winner], deal.standings[loser]
    is_one_batch = winner[0] == loser[0]
    asked = [first.work.resources.words] if first.work.resources else []
    needs = " and ".join([*sorted(first.work.capabilities), *asked])
    had, other_had = (deal.usage.get(one.work.submitter, 0.0) for one in (first, second))
    amounts = f"{format_duration(had)} on a node, {second.work.submitter} {format_duration(other_had)}"
    less = f"{first.work.submitter} had less lately ({amounts})"
    days, waited = first.patience, f"it got no slot for {format_duration(first.waited)}"
    if first.waited < DAY * days:
        waited = f"it waits for {days}d"

    def by_rule(one: Standing, usage: float) -> tuple[Any, ...]:
        return (
            one.needs not in deal.starving,
            -one.level,
            doublings(usage) - one.patience,
            one.waste(deal.scarcity.wealth(node.capabilities)),
            one.yields(is_built=one.work.batch_id in node.built),
            usage,
            one.age if is_one_batch else one.work.submitted_at,
        )

    starved = "a day" if deal.starving.get(first.needs, 0.0) > DAY else "an hour, and others ask for less"
    words = (
        f"no job with its needs got a slot for {starved}",
        f"only {deal.scarcity.offers(first.needs)} of {deal.scarcity.nodes} nodes have {needs}",
        less if doublings(had) < doublings(other_had) else waited,
        "it leaves less of the node idle",
        "it is built there already",
        less,
        "it asks for more" if is_one_batch else "it is older",
    )
    turn = "slots are given out in turn"  # it was ahead before others had been served
    for mine, theirs, why in zip(by_rule(first, had), by_rule(second, other_had), words, strict=True):
        if mine != theirs:
            return f"{first.work.name} goes first: {why if mine < theirs else turn}"
    return f"{first.work.name} goes first: {turn}"


def _passed_over(node: NodeView, work: WorkView, played: _Played, now: float) -> Reason:
    no = refusal(node, work) if work.ready else next(iter(_set_aside([work], now)), None)
    if no is None and (kept := played.kept.get(node.name)):
        no = _kept_from(node, kept)
    if no is None:
        return Reason(Code.IDLE, f"{work.name}: could run here, but its jobs start elsewhere", node.name)
    return Reason(no.code, f"{work.name}: {no.text}", node.name)


def _size(work: WorkView) -> float:
    return math.inf if work.resources is None else work.resources.cores


def _jobs(count: int) -> str:
    return "1 job" if count == 1 else f"{count} jobs"
