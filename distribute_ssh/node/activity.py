"""The verb activity of a node: what its answer says of somebody being there. Pure.

A node is not believed further than this grammar goes: what does not fit it counts as not said.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from distribute_ssh.model.owner import Reading
from distribute_ssh.node import wire
from distribute_ssh.node.lease import printable

_WHOLE = re.compile(r"-?[0-9]{1,18}", re.ASCII)
_AMOUNT = re.compile(r"[0-9]{1,9}(\.[0-9]{1,6})?", re.ASCII)
_DESKTOPS = ("x11", "wayland", "mir")
_WHAT = {
    "tty": ("terminals", "nobody has a terminal"),
    "session": ("sessions (logind)", "nobody is logged in"),
    "cpu": ("use of the processors by others", ""),
    "gpu": ("use of GPUs by others", ""),
}


def read(rows: Iterable[wire.Row]) -> list[Reading]:
    """All readings of an answer, in its order."""
    said = [(row.fields[0], row.fields[1:]) for row in rows if row.kind == "reading"]
    sessions = [(words, _pairs(words)) for kind, words in said if kind == "session" and len(words) > 3]
    names = {values.get("User", ""): printable(values.get("Name", "")) for _, values in sessions}
    has_screen = any(kind == "screen" for kind, _ in said)
    found = []
    for kind, words in said:
        if kind == "session" and len(words) > 3:
            reading = _session(words, _pairs(words), has_screen=has_screen)
        else:
            reading = _plain(kind, words, names)
        if reading is not None:
            found.append(reading)
    if sessions and not any(reading.kind == "session" for reading in found):
        found.append(Reading("session", _WHAT["session"][1]))
    return found


def _plain(kind: str, words: Sequence[str], names: Mapping[str, str]) -> Reading | None:
    match kind, *words:
        case (("tty" | "session" | "cpu" | "gpu"), "unknown"):
            return Reading(kind, f"{_WHAT[kind][0]}: cannot be read here", is_known=False)
        case (("tty" | "session"), "none"):
            return Reading(kind, _WHAT[kind][1])
        case "tty", age, uid, name if _WHOLE.fullmatch(age):
            return Reading(kind, f"{names.get(uid) or f'uid {printable(uid)}'} at {printable(name)}", float(age))
        case "watch", "none", name:
            return Reading(kind, f"{printable(wire.unword(name))} is not there")
        case "watch", age, name if _WHOLE.fullmatch(age):
            return Reading(kind, f"{printable(wire.unword(name))} was used", float(age))
        case "screen", age if _WHOLE.fullmatch(age):
            return Reading(kind, "keyboard and mouse of the screen", float(age))
        case "load", amount if _AMOUNT.fullmatch(amount):
            return Reading(kind, f"load average {amount}", amount=float(amount))
        case "cpu", hundredths if _AMOUNT.fullmatch(hundredths):
            return Reading(kind, f"others use {float(hundredths) / 100:.1f} cores", amount=float(hundredths) / 100)
        case "gpu", count if _AMOUNT.fullmatch(count):
            return Reading(kind, f"{count} processes of others hold a GPU", amount=float(count))
    return None


def _pairs(words: Sequence[str]) -> dict[str, str]:
    return {name: value for name, _, value in (word.partition("=") for word in words[3:])}


def _session(words: Sequence[str], values: Mapping[str, str], *, has_screen: bool) -> Reading | None:
    """A session of a person; None for what logind calls a session as well, and for those through which we came."""
    me, clock, uptime = words[:3]
    get = values.get
    is_own, seat, tty = get("User") == me, get("Seat", ""), get("TTY", "")
    if not get("Class", "").startswith("user") or get("State") == "closing" or (is_own and not seat and not tty):
        return None
    name = printable(get("Name", "")) or f"uid {printable(get('User', ''))}"
    if get("Type") in _DESKTOPS:
        where = f"{name} at {printable(seat) or 'a remote desktop'} ({get('Type')})"
        if get("LockedHint") == "yes":
            return Reading("session", f"{where}, locked")
        if get("IdleHint") == "yes":
            return Reading("session", where, _ago(clock, get("IdleSinceHint", "")))
        # Some desktops never call themselves idle; then the screen knows better, where it may be asked.
        return Reading("session", where, None if is_own and has_screen else 0.0)
    # Without a desktop logind reads the terminal; where there is none either, only the login itself is a sign.
    at = f"{name} at {printable(tty)}" if tty else f"{name} logged in without a terminal"
    idle = _ago(clock, get("IdleSinceHint", "")) if tty else None
    return Reading("session", at, _ago(uptime, get("TimestampMonotonic", "")) if idle is None else idle)


def _ago(now: str, microseconds: str) -> float | None:
    """Seconds from then to now; None where one of them makes no sense."""
    whole, _, _ = now.partition(".")
    if not (_WHOLE.fullmatch(whole) and _WHOLE.fullmatch(microseconds)) or int(microseconds) <= 0:
        return None
    return float(int(whole) - int(microseconds) // 1_000_000)
