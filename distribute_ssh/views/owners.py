"""What `nodes` says of a node's owner: single readings, hours, gentleness; as data, and for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from distribute_ssh.model.hours import is_open, next_change, parse_hours
from distribute_ssh.model.inventory import NodeEntry
from distribute_ssh.model.owner import Activity
from distribute_ssh.model.units import format_duration, iso
from distribute_ssh.views.text import safe
from distribute_ssh.views.times import ago, seconds, until


def owner_data(entry: NodeEntry, activity: Activity | None, now: float) -> dict[str, Any]:
    """What documents say of it; null where the inventory asks for nothing of that kind."""
    return {
        "owner": _owner(entry, activity or Activity()) if entry.pause_when_active or entry.move_after else None,
        "hours": _hours(entry.hours, now) if entry.hours is not None else None,
        "gentle": {"nice": entry.nice, "ionice": entry.ionice, "cores": entry.core_cap}
        if entry.nice or entry.ionice or entry.core_cap
        else None,
    }


def _owner(entry: NodeEntry, activity: Activity) -> dict[str, Any]:
    at = activity.at
    return {
        "pause_when_active": entry.pause_when_active or None,
        "move_after": entry.move_after or None,
        "last_active": None if activity.last is None else iso(activity.last),
        "why": activity.why or None,
        "read_at": None if at is None else iso(at),
        "readings": [
            {
                "kind": each.kind,
                "text": each.text,
                "last": None if each.idle is None or at is None else iso(at - each.idle),
                "amount": each.amount,
                "known": each.is_known,
            }
            for each in activity.readings
        ],
    }


def _hours(text: str, now: float) -> dict[str, Any]:
    hours = parse_hours(text)
    change = next_change(hours, now)
    return {"text": text, "open": is_open(hours, now), "until": None if change is None else iso(change)}


def owners_text(nodes: Sequence[Mapping[str, Any]], now: float) -> str:
    """What the nodes of a document read of their owners, and how they make way for them."""
    blocks = [(node["name"], list(_lines(node, now))) for node in nodes]
    return "".join(
        f"\n{safe(name)}\n" + "".join(f"  {kind:9}{safe(text)}\n" for kind, text in lines)
        for name, lines in blocks
        if lines
    )


def _lines(node: Mapping[str, Any], now: float) -> Iterator[tuple[str, str]]:
    owner, hours, gentle = node["owner"], node["hours"], node["gentle"]
    if owner and owner["pause_when_active"]:
        yield "owner", f"jobs pause until nobody was active for {format_duration(owner['pause_when_active'])}"
        if owner["read_at"] is None:
            yield "", "nothing was read yet"
        elif owner["last_active"] is None:
            yield "", f"nobody was active; read {ago(seconds(owner['read_at']), now)} ago"
        else:
            last, read = (ago(seconds(owner[each]), now) for each in ("last_active", "read_at"))
            yield "", f"last active {last} ago: {owner['why']}; read {read} ago"
        for each in owner["readings"]:
            when = "" if each["last"] is None else f", {ago(seconds(each['last']), now)} ago"
            yield each["kind"], each["text"] + when
    if owner and owner["move_after"]:
        yield "move", f"a job paused for {format_duration(owner['move_after'])} may be attempted elsewhere"
    if hours:
        change = seconds(hours["until"])
        state = "open" if hours["open"] else "closed"
        yield "hours", f"{hours['text']}: {state}" + ("" if change is None else f" until {until(change, now)}")
    if gentle:
        words = [
            *([f"nice {gentle['nice']}"] if gentle["nice"] else []),
            *([f"ionice {gentle['ionice']}"] if gentle["ionice"] else []),
            *([f"on {gentle['cores']} cores"] if gentle["cores"] else []),
        ]
        yield "gentle", ", ".join(words)
