"""`nodes alias`: the program with which people at a workstation pause it themselves."""

from __future__ import annotations

import asyncio

import click

from distribute_ssh.cli.app import App
from distribute_ssh.cli.group import Verb
from distribute_ssh.coordination.coordinator import open_link
from distribute_ssh.errors import NodeError, UsageError
from distribute_ssh.model.inventory import NodeEntry
from distribute_ssh.node.channel import open_channel
from distribute_ssh.node.connection import Connector, KnownHosts
from distribute_ssh.node.desk import close_desk, install, open_desk
from distribute_ssh.views.document import document


@click.command(cls=Verb)
@click.argument("node")
@click.option(
    "--path", "folder", metavar="DIR", help="Where on the node; else /usr/local/bin, or our ~/.local/bin there."
)
@click.option("--remove", is_flag=True, help="Take it away again.")
@click.pass_obj
def alias(app: App, node: str, folder: str | None, remove: bool) -> int:
    """Put a program named distribute on a workstation, for the people at it: pause, resume, status, why.

    It needs nothing but a shell, and no network: whoever is logged in there, or listed under `owners:` in the
    inventory, is obeyed.
    """
    entry = app.nodes.node(node)
    if entry.cluster is not None:
        raise UsageError(f"{entry.name} is a cluster: nobody sits at it who could pause it")
    program, target, trouble = asyncio.run(_alias(app, entry, folder, remove))
    content = document(node=entry.name, program=None if remove else program, path=target)
    if remove:
        app.answer(content, lambda: f"{entry.name}: nobody at its desk is obeyed any more\n", [entry.name])
        return 0
    if trouble is not None:
        app.warn(str(trouble))
    text = f"{entry.name}: people there can say  {'distribute' if target else program} pause\n"
    app.answer(content, lambda: text, [target or program])
    return 0 if trouble is None else trouble.exit_code


async def _alias(
    app: App, entry: NodeEntry, folder: str | None, remove: bool
) -> tuple[str, str | None, NodeError | None]:
    """The program on the node, the link to it, and why there is none."""
    connector = Connector(KnownHosts(app.places.known_hosts), app.nodes.ssh_config)
    try:
        link = await open_link(entry, connector)
        try:
            async with open_channel(link, entry.scratch, lambda _event: None) as channel:
                if remove:
                    await close_desk(channel, link, folder)
                    return "", None, None
                program = await open_desk(channel, entry.name, entry.max_pause, entry.owners)
            try:
                return program, await install(link, program, folder), None
            except NodeError as error:
                if not error.retryable:
                    return program, None, error
                raise
        finally:
            await link.close()
    finally:
        await connector.close()
