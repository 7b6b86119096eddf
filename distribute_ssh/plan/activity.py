"""When a node makes way for its owner by itself: what readings come to, and the pauses to ask for.

Somebody is taken to be there as soon as one signal says so, and where nothing can be read at all. Nothing here ever
stands against a person: a pause that somebody asked for is left as it is, and whoever ends one is not overruled at
once (`for_activity`, `for_hours`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import tzinfo
from typing import NamedTuple

from distribute_ssh.model import hours as wall
from distribute_ssh.model.lease import Lease, NodeRequest
from distribute_ssh.model.owner import Activity, Reading

BY_ACTIVITY = "its owner's activity"
BY_HOURS = "its hours"
BUSY_CORES = 0.5  # that others keep busy, in two readings one after the other: cron and updates come and go
SLACK = 2.0  # seconds by which the ends of a lease may differ as the node and we see them

_IN_DOUBT = "neither its terminals nor its sessions can be read"


class Wish(NamedTuple):
    """A pause that would be right now."""

    until: float
    who: str
    reason: str
    step: float  # seconds: it is asked for anew when a quarter of this has gone by


def seen(before: Activity, readings: Sequence[Reading], at: float, ignore: Collection[str] = ()) -> Activity:
    """What is known of the owner after another look, `at`. `ignore`: kinds of readings that are only shown."""
    now = replace(before, at=at, readings=tuple(readings))
    idle, why = min(_signals(before.readings, readings, ignore), default=(None, ""))
    if idle is None or (before.last is not None and at - idle <= before.last):
        return now
    return replace(now, last=at - idle, why=why)


def _signals(
    before: Sequence[Reading], readings: Sequence[Reading], ignore: Collection[str]
) -> list[tuple[float, str]]:
    """Seconds since somebody did something, and by what that was seen."""
    counted = [reading for reading in readings if reading.kind not in ignore]
    found = [(max(reading.idle, 0.0), reading.text) for reading in counted if reading.idle is not None]
    used = next((reading.amount or 0.0 for reading in counted if reading.kind == "cpu"), 0.0)
    used_before = next((reading.amount or 0.0 for reading in before if reading.kind == "cpu"), 0.0)
    if min(used, used_before) >= BUSY_CORES:
        found.append((0.0, f"others use {used:.1f} cores"))
    # Also one that only holds memory of a GPU: a job that finds none left fails.
    found += [(0.0, "others use a GPU") for reading in counted if reading.kind == "gpu" and reading.amount]
    people = {"tty", "session"} - set(ignore)
    if people and not any(reading.is_known for reading in counted if reading.kind in people):
        found.append((0.0, _IN_DOUBT))
    return found


def for_activity(activity: Activity, quiet: float, max_pause: float, now: float) -> Wish | None:
    """The pause that is right because of what was seen: until `quiet` seconds after the last sign of the owner.

    Where somebody ended a pause, what is seen in the `quiet` seconds after that does not count: they know that
    somebody is there.
    """
    if activity.last is None or (activity.resumed_at is not None and activity.last < activity.resumed_at + quiet):
        return None
    until = min(activity.last + quiet, now + max_pause)
    return Wish(until, BY_ACTIVITY, activity.why, min(quiet, max_pause)) if until >= now + 1 else None


def for_hours(text: str, activity: Activity, max_pause: float, now: float, zone: tzinfo | None = None) -> Wish | None:
    """The pause that is right because it is outside the hours of the node: until they begin again, piece by piece.

    Where somebody ended a pause outside the hours, what runs is left alone until they have begun and ended again.
    """
    hours = wall.parse_hours(text)
    if wall.is_open(hours, now, zone):
        return None
    closed_since = wall.last_change(hours, now, zone)
    if activity.resumed_at is not None and (closed_since is None or activity.resumed_at >= closed_since):
        return None
    again = wall.next_change(hours, now, zone)
    until = min(now + max_pause, again if again is not None else now + max_pause)
    return Wish(until, BY_HOURS, text, max_pause) if until >= now + 1 else None


def closure(text: str, now: float, zone: tzinfo | None = None) -> float | None:
    """When jobs may begin on a node that is outside its hours; None: now."""
    hours = wall.parse_hours(text)
    return None if wall.is_open(hours, now, zone) else wall.next_change(hours, now, zone)


def to_ask(
    wishes: Sequence[Wish | None], lease: Lease | None, mine: str | None, fresh: str, now: float
) -> NodeRequest | None:
    """What to ask of a node that has the lease `lease` and was asked for nothing else; None: nothing.

    `mine`: the token of the lease we asked for last; it is extended while it stands, so that it is one pause. `fresh`:
    the token for another one.
    """
    wish = max((wish for wish in wishes if wish is not None), key=lambda each: each.until, default=None)
    if wish is None:
        return None
    if lease is None or lease.until <= now:
        return NodeRequest(fresh, now, wish.who, wish.until, wish.reason, yields=True)
    if lease.token != mine:
        return None  # of a person, who decides alone
    left, gained = lease.until - now, wish.until - lease.until
    is_due = gained >= wish.step / 4 or (left <= wish.step / 2 and gained > SLACK)
    if is_due:
        return NodeRequest(lease.token, now, wish.who, wish.until, wish.reason, extends=True)
    return None


def was_ended(lease: Lease | None, follows: Lease | None, now: float) -> bool:
    """Whether somebody ended a pause before its time: it stood, and now none does."""
    return lease is not None and follows is None and now < lease.until - SLACK
