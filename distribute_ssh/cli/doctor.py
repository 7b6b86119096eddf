"""`nodes doctor`: every step from here to a job on a node, one after the other, with what to do where one fails."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import click

from distribute_ssh.cli.app import App, write
from distribute_ssh.cli.group import Verb
from distribute_ssh.cli.stored import open_stored
from distribute_ssh.errors import DistributeError, NodeError
from distribute_ssh.model.inventory import NodeEntry
from distribute_ssh.model.units import format_size
from distribute_ssh.node.connection import Connector, KnownHosts
from distribute_ssh.node.doctor import Check, examine
from distribute_ssh.storage.check import test_storage
from distribute_ssh.views.document import document
from distribute_ssh.views.machines import check_line

AT_ONCE = 8  # nodes that are examined side by side


@click.command(cls=Verb)
@click.argument("nodes", nargs=-1, metavar="[NODE]...")
@click.pass_obj
def doctor(app: App, nodes: tuple[str, ...]) -> int:
    """Examine nodes step by step: all of them and storage, or those named.

    Whether they can be reached, host key, login, shell, scratch, room, python3, tools, the clock, a job that does
    nothing, and whether what we leave running survives the log-out; and what to do about each trouble.
    """
    entries = [app.nodes.node(name) for name in nodes] or list(app.nodes.nodes)
    checks = asyncio.run(_examine_all(app, entries, with_storage=not nodes))
    bad = dict.fromkeys(each["node"] for each in checks if each["ok"] is False)
    app.answer(document(checks=checks), str, bad)
    return NodeError.exit_code if bad else 0


async def _examine_all(app: App, entries: list[NodeEntry], *, with_storage: bool) -> list[dict[str, Any]]:
    connector = Connector(KnownHosts(app.places.known_hosts), app.nodes.ssh_config)
    limit = asyncio.Semaphore(AT_ONCE)

    async def one(entry: NodeEntry) -> list[dict[str, Any]]:
        found = []
        async with limit:
            async for check in examine(connector, entry):
                found.append(_data(entry, check))
        _print(app, found)
        return found

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(entry), name=f"examine {entry.name}") for entry in entries]
    finally:
        await connector.close()
    found = [each for task in tasks for each in task.result()]
    if with_storage:
        stored = await _examine_storage(app)
        _print(app, [stored])
        found.append(stored)
    return found


async def _examine_storage(app: App) -> dict[str, Any]:
    """Do once in storage what archiving does there."""
    place = app.nodes.storage
    try:
        async with open_stored(app) as storage:
            free = await test_storage(storage)
    except DistributeError as error:
        return {"node": "storage", "step": "write", "ok": False, "text": error.message, "remedy": error.hint}
    room = "" if free >= 1 << 62 else f", {format_size(free)} free"  # a server that cannot tell
    return {"node": "storage", "step": "write", "ok": True, "text": f"{place}{room}", "remedy": None}


def _print(app: App, checks: list[dict[str, Any]]) -> None:
    """A node's checks as soon as all are made: lines of several nodes are not mixed."""
    if not app.json and not app.quiet:
        write(sys.stdout, "".join(check_line(**each, colour=app.colour) for each in checks))


def _data(entry: NodeEntry, check: Check) -> dict[str, Any]:
    return {"node": entry.name, "step": check.step, "ok": check.ok, "text": check.text, "remedy": check.remedy}
