"""`pause` and `resume`: the machine for whoever sits at it, for a while."""

from __future__ import annotations

import time
from collections.abc import Callable

import click
from click.exceptions import Exit

from distribute_ssh.cli.app import App
from distribute_ssh.cli.group import Verb
from distribute_ssh.errors import UnreachableError, UsageError
from distribute_ssh.model.inventory import NodeEntry
from distribute_ssh.model.job import State
from distribute_ssh.model.lease import Lease, NodeRequest, in_force
from distribute_ssh.model.units import format_duration, iso, parse_duration, parse_until
from distribute_ssh.store.rows import NodeRow
from distribute_ssh.views.document import document
from distribute_ssh.views.text import safe
from distribute_ssh.views.times import pause_words, until

USUAL = 3600.0  # seconds, where nobody says how long
INTERRUPTED = 130
_LONGEST_REASON = 500  # characters; nodes keep what fits into a line


@click.command(cls=Verb)
@click.argument("node", required=False)
@click.option("--for", "--duration", "length", metavar="TIME", help="How long: 90 (seconds), 15m, 1h30m. Else an hour.")
@click.option("--until", "end", metavar="TIME", help="Its end: 18:00, or 2025-03-31T18:00.")
@click.option("--reason", metavar="TEXT", help="What people are told.")
@click.option("--wait", is_flag=True, help="Stay until it is over. Ctrl-C ends the pause.")
@click.pass_obj
def pause(app: App, node: str | None, length: str | None, end: str | None, reason: str | None, wait: bool) -> int:
    """Stop everything that runs on a node, for a while; without NODE, on this machine.

    Returns when all of it stands still. It goes on by itself at the end, whoever is gone by then; said again, the pause
    ends as said last.
    """
    entry, now = _named(app, node), time.time()
    if entry.cluster is not None:
        hint = f"distribute nodes drain {entry.name}  sends no more jobs there; what is there goes on to its end"
        raise UsageError(f"{entry.name} is a cluster: nobody sits at it, and it cannot be paused", hint=hint)
    if reason is not None and (len(reason) > _LONGEST_REASON or not reason.isprintable()):
        raise UsageError(f"a reason is one line of at most {_LONGEST_REASON} characters")
    request = NodeRequest(app.queue.new_token(), now, app.user, _end(entry, length, end, now), reason)
    try:
        code = _pause(app, entry, request)
        if wait:
            _until(app, lambda: _in_force(app, entry) is None)
            app.say(f"{entry.name} goes on")
    except Exit as stopped:
        if wait:
            _resume(app, entry)
        else:
            app.warn(f"{entry.name} has not said yet that it is paused; it stays asked for")
        return stopped.exit_code
    return code


@click.command(cls=Verb)
@click.argument("node", required=False)
@click.pass_obj
def resume(app: App, node: str | None) -> int:
    """Let everything go on that a pause stopped; without NODE, on this machine. Returns when it does."""
    entry = _named(app, node)
    try:
        return _resume(app, entry)
    except Exit as stopped:
        app.warn(f"{entry.name} has not said yet that it goes on; it stays asked for")
        return stopped.exit_code


def _named(app: App, node: str | None) -> NodeEntry:
    if node is not None:
        return app.known_nodes.node(node)
    here = [entry for entry in app.nodes.nodes if entry.connection == "local"]
    if len(here) != 1:
        names = ", ".join(entry.name for entry in app.nodes.nodes)
        raise UsageError("this machine is not a node of the inventory: say which one", hint=f"nodes: {names}")
    return here[0]


def _end(entry: NodeEntry, length: str | None, end: str | None, now: float) -> float:
    if length is not None and end is not None:
        raise UsageError("say how long, or until when: not both")
    try:
        at = (
            parse_until(end, now)
            if end is not None
            else now + (min(USUAL, entry.max_pause) if length is None else parse_duration(length))
        )
    except ValueError as error:
        raise UsageError(str(error)) from None
    if at < now + 1:
        raise UsageError("a pause takes at least a second", hint=f"distribute resume {entry.name}  ends one")
    if at > now + entry.max_pause:
        longest = format_duration(entry.max_pause)
        hint = "it may be said again before it ends; `max_pause:` in the inventory allows more"
        raise UsageError(f"a pause of {entry.name} takes at most {longest}", hint=hint)
    return at


def _pause(app: App, entry: NodeEntry, request: NodeRequest) -> int:
    lease, now = _carry_out(app, entry, request), time.time()
    if lease is None and request.is_over(now):
        app.warn(f"{entry.name}: the pause was over before the node had said that it stood")
        return 1
    if lease is None or lease.token != request.token:
        said = f"it is paused {pause_words(lease, now)}" if lease else "it goes on"
        app.warn(f"{entry.name}: something else was said after this: {said}")
        return 1
    data = {"node": entry.name, "paused_until": iso(lease.until), "by": lease.who, "reason": lease.reason}
    if lease.left:
        app.warn(f"on {entry.name} these would not stop:\n" + "".join(f"  {safe(each)}\n" for each in lease.left))
    text = f"{entry.name} paused until {until(lease.until, now)}\n"
    app.answer(document(**data, left=list(lease.left)), lambda: text, [entry.name])
    return 1 if lease.left else 0


def _resume(app: App, entry: NodeEntry) -> int:
    lease = _carry_out(app, entry, NodeRequest(app.queue.new_token(), time.time(), app.user))
    if lease is not None:
        app.warn(f"{entry.name}: something else was said after this: paused {pause_words(lease, time.time())}")
        return 1
    app.answer(document(node=entry.name, paused_until=None), lambda: f"{entry.name} goes on\n", [entry.name])
    return 0


def _carry_out(app: App, entry: NodeEntry, request: NodeRequest) -> Lease | None:
    """Ask for it and wait for the node's answer: the lease that stands there then.

    Raises UnreachableError where there is none; it stays asked for.
    """
    with app.queue.transaction() as change:
        change.node(entry.name, request=request)
        change.tell_act(request.at, request.who, _said(request), node=entry.name)

    def is_answered() -> bool:
        row = _row(app, entry)
        if row.request is not None and row.request.token == request.token:
            return row.request.trouble is not None
        # What its jobs do is known a moment later.
        before = State.PAUSED if row.lease is None else State.RUNNING
        late = any(job.node == entry.name and job.state is before for job in app.queue.active_jobs())
        return not late or row.unreachable_since is not None

    _until(app, is_answered)
    row = _row(app, entry)
    if row.request is not None and row.request.token == request.token:
        verb, still = ("resumed", "") if request.until is None else ("paused", " if it does before the pause is over")
        raise UnreachableError(
            f"{entry.name} could not be {verb} yet: {row.request.trouble}",
            hint=f"it stays asked for, and is done when the node answers{still}",
        )
    return row.lease


def _said(request: NodeRequest) -> str:
    if request.until is None:
        return "to go on"
    return f"to be paused until {iso(request.until)}" + (f": {request.reason}" if request.reason else "")


def _row(app: App, entry: NodeEntry) -> NodeRow:
    return app.queue.nodes()[entry.name]


def _in_force(app: App, entry: NodeEntry) -> Lease | None:
    row = _row(app, entry)
    return in_force(row.request, row.lease, time.time())


def _until(app: App, holds: Callable[[], bool]) -> None:
    """Wait until it holds; Exit where a signal says to wait no longer."""
    try:
        # Only now, when it was asked for: to import what talks to nodes takes longer than to stop what runs on one.
        from distribute_ssh.cli.drive import Stopped, drive
    except KeyboardInterrupt:
        raise Exit(INTERRUPTED) from None
    try:
        drive(app, lambda _coordinator: holds())
    except Stopped as stopped:
        raise Exit(stopped.exit_code) from None
