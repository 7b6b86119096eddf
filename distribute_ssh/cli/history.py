"""`history`: what happened, who asked for it, and who had how much."""

from __future__ import annotations

import sys
import time
from typing import Any

import click

from distribute_ssh.cli.app import App, write
from distribute_ssh.cli.group import Verb
from distribute_ssh.cli.names import complete_batch, find_batch, find_job, no_match
from distribute_ssh.errors import UsageError
from distribute_ssh.model.units import iso, parse_since
from distribute_ssh.store.ledger import Event, Scope, Share
from distribute_ssh.views.document import document
from distribute_ssh.views.history import events_csv, events_table, shares_csv, shares_table
from distribute_ssh.views.reasons import without_output


@click.command(cls=Verb)
@click.argument("batch", required=False, shell_complete=complete_batch)
@click.argument("job", required=False)
@click.option("-n", "--lines", type=click.IntRange(1), metavar="N", default=100, show_default=True, help="The last N.")
@click.option("--user", metavar="NAME", help="Of that person's batches, or done by them.")
@click.option("--node", metavar="NODE", help="On that node.")
@click.option("--since", metavar="WHEN", help="Since then: 7d (ago), 18:00, 2025-03-31.")
@click.option("--totals", is_flag=True, help="How much each person had and each node gave, in place of events.")
@click.option("--csv", "as_csv", is_flag=True, help="Comma-separated, for a spreadsheet.")
@click.pass_obj
def history(
    app: App,
    batch: str | None,
    job: str | None,
    lines: int,
    user: str | None,
    node: str | None,
    since: str | None,
    totals: bool,
    as_csv: bool,
) -> None:
    """Show what happened to all batches, to one, or to one of its jobs; who asked for it, and when.

    With --totals: node time, attempts and ended jobs of each person and of each node.
    """
    if as_csv and app.json:
        raise UsageError("--csv and --json are two things", hint="say one of them")
    now = time.time()
    found = find_batch(app, batch) if batch else None
    try:
        begin = parse_since(since, now) if since else None
    except ValueError as error:
        raise UsageError(f"--since: {error}") from error
    scope = Scope(
        batch_id=found.id if found else None,
        job_id=find_job(app, found, job).id if found and job else None,
        user=user,
        node=_node(app, node) if node else None,
        since=begin,
    )
    content: dict[str, Any] = {"batch": found.name if found else None}
    if totals:
        people, nodes = app.queue.totals(scope, now) if app.has_queue else ([], [])
        _show_totals(app, content, [_share(each) for each in people], [_share(each) for each in nodes], as_csv=as_csv)
    else:
        events = _events(app, scope, lines) if app.has_queue else []
        _show_events(app, content, events, as_csv=as_csv)


def _node(app: App, name: str) -> str:
    """The node somebody names, which may have left the inventory long ago. Raises NoMatchError."""
    known = {each.name.casefold(): each.name for each in app.nodes.nodes}
    if app.has_queue:
        known |= {each.casefold(): each for each in app.queue.nodes()}
    if name.casefold() not in known:
        raise no_match("node", name, known.values(), "`distribute nodes` shows them")
    return known[name.casefold()]


def _show_events(app: App, content: dict[str, Any], events: list[dict[str, Any]], *, as_csv: bool) -> None:
    if as_csv:
        write(sys.stdout, events_csv(events))
        return
    app.answer(
        document(**content, history=events),
        lambda: events_table(events, batches=content["batch"] is None, width=app.width),
    )


def _show_totals(
    app: App, content: dict[str, Any], people: list[dict[str, Any]], nodes: list[dict[str, Any]], *, as_csv: bool
) -> None:
    if as_csv:
        write(sys.stdout, shares_csv(people, nodes))
        return

    def text() -> str:
        by_person = shares_table("PERSON", people, width=app.width)
        return f"{by_person}\n{shares_table('NODE', nodes, width=app.width)}"

    app.answer(document(**content, people=people, nodes=nodes), text, [each["name"] for each in people])


def _events(app: App, scope: Scope, lines: int) -> list[dict[str, Any]]:
    hidden = {batch.name for batch in app.queue.batches() if not app.may_read(batch)} if app.actor else set()
    events = app.queue.events(scope, min(lines, sys.maxsize))
    return [_event(each, is_open=each.batch not in hidden) for each in events]


def _event(event: Event, *, is_open: bool) -> dict[str, Any]:
    return {
        "at": iso(event.at),
        "batch": event.batch,
        "job": event.job,
        "attempt": event.attempt,
        "node": event.node,
        "from": event.before,
        "to": event.after,
        "who": event.who,
        "reason": event.reason if is_open else without_output(event.reason),
    }


def _share(share: Share) -> dict[str, Any]:
    return {
        "name": share.name,
        "node_seconds": share.node_seconds,
        "attempts": share.attempts,
        "jobs": share.outcomes,
    }
