"""`users`: who may use this head from elsewhere."""

from __future__ import annotations

import os
import pwd
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, ClassVar

import click

from distribute_ssh.cli.app import App
from distribute_ssh.cli.group import Family, Here, Sections
from distribute_ssh.errors import UsageError
from distribute_ssh.head.users import Keys, User, check_user, read_key
from distribute_ssh.model.actor import Role
from distribute_ssh.views.document import document
from distribute_ssh.views.text import Column, table


class Users(Family):
    """`distribute users`."""

    sections: ClassVar[Sections] = {
        "Commands": {
            "add": ("users", "Let somebody in with a key."),
            "list": ("users", "Show who may come in."),
            "remove": ("users", "Let somebody in no more."),
        }
    }


_FILE = click.option(
    "--authorized-keys", "path", type=click.Path(path_type=Path), metavar="FILE", help="Else that of this account."
)


@click.group(cls=Users)
def users() -> None:
    """Say who may use this head from elsewhere, and with which key.

    To be typed on the head, as the account that owns the queue. A key opens the gateway and nothing else.
    """


@click.command(cls=Here)
@click.argument("name")
@click.argument("keyfile", type=click.Path(path_type=Path))
@click.option("--admin", is_flag=True, help="May change everybody's batches, and the nodes.")
@click.option("--node", metavar="NODE", help="The key of a workstation: pauses, resumes and looks at it, no more.")
@_FILE
@click.pass_obj
def add(app: App, name: str, keyfile: Path, admin: bool, node: str | None, path: Path | None) -> None:
    """Let somebody in with the public key in KEYFILE. Who has several machines is added once for each."""
    check_user(name)
    if admin and node is not None:
        raise click.UsageError("a key is an administrator's or a workstation's, not both")
    entry = None if node is None else app.nodes.node(node).name
    user = User(name, read_key(keyfile), Role.NODE if entry else Role.ADMIN if admin else Role.SUBMITTER, entry)
    _check_installed()
    keys = _keys(app, path)
    keys.add(user)
    _tell(app, f"{name} may come in, as {user.role}" + (f" of {entry}" if entry else ""))
    _check_modes(app, keys.path)
    if keys.elsewhere(user.key):
        app.warn(f"{keys.path} lets that key in a second time, further down; our line comes first, and holds")
    local = [each.name for each in app.nodes.nodes if each.connection == "local" and each.enabled]
    if local and user.role is Role.SUBMITTER:
        app.warn(
            f"jobs on {local[0]} run as this account, and can do whatever it can; trust {name} as much,"
            f" or take {local[0]} out of the inventory"
        )
    login = f"{pwd.getpwuid(os.getuid()).pw_name}@HEAD"
    app.say(f"{name} may come in. There, once:\n  distribute --head {login} status")
    app.answer(document(user=_data(user)), str, [name])


@click.command("list", cls=Here)
@_FILE
@click.pass_obj
def list_(app: App, path: Path | None) -> None:
    """Show who may come in, and with which keys."""
    found = [_data(user) for user in _keys(app, path).users()]
    heads = [Column("USER"), Column("ROLE"), Column("NODE"), Column("KEY", gives=True), Column("FINGERPRINT")]
    rows = [[each["name"], each["role"], each["node"] or "", each["type"], each["fingerprint"]] for each in found]
    names = dict.fromkeys(str(each["name"]) for each in found)
    app.answer(document(users=found), lambda: table(heads, rows, width=app.width, colour=app.colour), names)


@click.command(cls=Here)
@click.argument("name")
@_FILE
@click.pass_obj
def remove(app: App, name: str, path: Path | None) -> None:
    """Let somebody in no more, with none of their keys. Their batches stay."""
    gone = _keys(app, path).remove(name)
    _tell(app, f"{name} may come in no more")
    content = document(removed=[_data(user) for user in gone])
    app.answer(content, lambda: f"{name} removed: {len(gone)} key{'s' if len(gone) > 1 else ''}\n", [name])


def _tell(app: App, what: str) -> None:
    with app.queue.transaction() as change:
        change.tell_act(time.time(), app.user, what)


def _keys(app: App, path: Path | None) -> Keys:
    account = pwd.getpwuid(os.getuid())  # where sshd looks, whatever $HOME says
    return Keys(path or Path(account.pw_dir, ".ssh", "authorized_keys"), _gateway(app))


def _gateway(app: App) -> list[str]:
    """How sshd is to start the gateway so that it works on what this command works on."""
    command = [sys.executable, "-I", "-m", "distribute_ssh"]  # -I: nothing of the client's environment is python's
    if app.inventory is not None or any(each in os.environ for each in ("DISTRIBUTE_INVENTORY", "DISTRIBUTE_CONFIG")):
        found = app.find_inventory()
        command += [f"--inventory={found}"] if found else []
    return [*command, "gateway", *([f"--home={app.places.state}"] if os.environ.get("DISTRIBUTE_HOME") else [])]


def _check_installed() -> None:
    """Raise UsageError where sshd could start no gateway: a checkout that only $PYTHONPATH knows is not enough."""
    command = [sys.executable, "-I", "-c", "import distribute_ssh"]
    if subprocess.run(command, stderr=subprocess.DEVNULL, cwd="/", check=False).returncode:
        raise UsageError(
            f"distribute is not installed for {sys.executable}, which sshd is to start",
            hint="install it into a virtual environment (pip install .), and add users with the one in there",
        )


def _check_modes(app: App, path: Path) -> None:
    """Say where others could write themselves in: sshd then lets nobody in, or, told not to look, everybody."""
    for each in (path, *list(path.parents)[:2]):
        if stat.S_IMODE(each.stat().st_mode) & 0o022 and not each.stat().st_mode & stat.S_ISVTX:
            app.warn(f"{each} can be written by others: chmod go-w {each}")


def _data(user: User) -> dict[str, Any]:
    return {
        "name": user.name,
        "role": user.role,
        "node": user.node,
        "type": user.key.kind,
        "fingerprint": user.key.fingerprint,
    }
