"""`nodes probe` and `nodes trust`: asking machines what they are, and who."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from distribute_ssh.cli.app import App
from distribute_ssh.cli.group import Verb
from distribute_ssh.coordination.coordinator import probe_nodes
from distribute_ssh.errors import HostKeyError, UnreachableError, UsageError
from distribute_ssh.model.inventory import NodeEntry
from distribute_ssh.node.connection import Connector, KnownHosts
from distribute_ssh.views.document import document
from distribute_ssh.views.machines import probed_text

if TYPE_CHECKING:
    import asyncssh


def _named(app: App, names: Sequence[str]) -> list[NodeEntry]:
    return [app.nodes.node(name) for name in names] or list(app.nodes.nodes)


@click.command(cls=Verb)
@click.argument("nodes", nargs=-1, metavar="[NODE]...")
@click.pass_obj
def probe(app: App, nodes: tuple[str, ...]) -> int:
    """Ask nodes anew what they are and have: all of them, or those named."""
    names = [entry.name for entry in _named(app, nodes)]
    answers = asyncio.run(probe_nodes(app.queue, app.nodes, app.places, names))
    data = [{"name": name, "ok": error is None, "error": error} for name, error in answers.items()]
    app.answer(document(probed=data), lambda: probed_text(answers), [name for name in names if answers[name] is None])
    return 0 if not any(answers.values()) else UnreachableError.exit_code


@click.command(cls=Verb)
@click.argument("node")
@click.option("--replace", is_flag=True, help="Also if another key is trusted now.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def trust(app: App, node: str, replace: bool, yes: bool) -> int:
    """Show the host key of a node, and trust it from now on.

    Compare the fingerprint with what the machine itself says: ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub
    """
    entry = app.nodes.node(node)
    if entry.connection == "local":
        raise UsageError(f"{entry.name} is this machine: there is no host key to trust")
    known_hosts = KnownHosts(app.places.known_hosts)
    connector = Connector(known_hosts, app.nodes.ssh_config)
    key, known = asyncio.run(_keys(connector, known_hosts, entry))
    shown = f"{key.get_algorithm()} {key.get_fingerprint()}"
    content = document(node=entry.name, type=key.get_algorithm(), fingerprint=key.get_fingerprint(), trusted=True)
    if key in known:
        app.say(f"{entry.name} is trusted already")
        app.answer(content, lambda: f"{entry.name}  {shown}\n", [entry.name])
        return 0
    if known and not replace:
        wanted = ", ".join(other.get_fingerprint() for other in known)
        raise HostKeyError(
            f"{entry.name} shows {shown}, but we trust {wanted}",
            hint="a reinstalled machine, or somebody in between: ask its administrator, then add --replace",
        )
    app.warn(f"{entry.name} ({entry.host}) shows the host key\n  {shown}")
    if not app.confirm("trust it?", yes=yes):
        app.say("it is not trusted")
        return 1
    known_hosts.trust(entry.name, key)
    app.answer(content, lambda: f"{entry.name}  {shown}\n", [entry.name])
    return 0


async def _keys(
    connector: Connector, known_hosts: KnownHosts, entry: NodeEntry
) -> tuple[asyncssh.SSHKey, list[asyncssh.SSHKey]]:
    """The key the node shows, and those we trust it by now."""
    try:
        key = await connector.host_key(entry.host, user=entry.user, port=entry.port)
        target = await connector.target(entry.host, user=entry.user, port=entry.port)
        return key, known_hosts.lookup(target, entry.name)[0]
    finally:
        await connector.close()
