"""`gateway`: what a key of a head opens, and all it opens."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import pwd
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from distribute_ssh.cli.app import App
from distribute_ssh.cli.group import Here
from distribute_ssh.cli.spelled import spelled
from distribute_ssh.errors import DeniedError, LimitError, UsageError
from distribute_ssh.model.actor import VARIABLE, Actor, Role

if TYPE_CHECKING:
    from distribute_ssh.head.frames import Frame
    from distribute_ssh.head.gateway import Site, Wire

AT_ONCE = 32  # conversations of one person: each is a process on the head
_PATH = "/usr/local/bin:/usr/bin:/bin"

WELCOME = """\
This key opens the gateway of distribute and nothing else: no shell, no sftp, no scp, no forwarding.
From your own machine:  distribute --head {user}@HEAD status
"""


@click.command(cls=Here)
@click.option("--user", metavar="NAME", help="For whom: the name that `users add` wrote beside the key.")
@click.option("--role", type=click.Choice(["admin", "submitter", "node"]), default="submitter", help="What they may.")
@click.option("--node", metavar="NODE", help="With --role node: whose key it is.")
@click.option("--home", type=click.Path(path_type=Path), metavar="DIR", help="In place of $DISTRIBUTE_HOME.")
@click.pass_obj
def gateway(app: App, user: str | None, role: str, node: str | None, home: Path | None) -> int:
    """Hold one conversation with a laptop, on stdin and stdout; sshd starts this, not you.

    Without --user it acts for the account it runs as, which is who logged in.
    """
    actor = Actor() if user is None else Actor(Role(role), user, node)
    if (role == "node") != (node is not None):
        raise UsageError("--role node and --node go together")
    if sys.stdin.isatty():
        raise UsageError("sshd starts the gateway, not you", hint="from another machine: distribute --head USER@HOST")
    if user is not None:
        asked_for = os.environ.get("SSH_ORIGINAL_COMMAND", "")
        _forget_environment()
        if "gateway" not in asked_for:  # somebody came with ssh, scp or sftp; it is read for nothing else
            sys.stderr.write(WELCOME.format(user=user))
            sys.stderr.flush()
    if home is not None:
        os.environ["DISTRIBUTE_HOME"] = str(home)
    if app.inventory is not None:
        os.environ["DISTRIBUTE_INVENTORY"] = str(app.inventory.absolute())
    app.actor = actor

    from distribute_ssh.head.gateway import Wire, serve

    # Frames have stdout to themselves: whatever else might print there would end the conversation.
    line = os.dup(1)
    os.dup2(2, 1)
    serve(Wire(0, line), site_of(app, actor))
    return 0


def site_of(app: App, actor: Actor) -> Site:
    """What a gateway works on that speaks for this actor."""
    from distribute_ssh.head import relay
    from distribute_ssh.head.gateway import Site

    def run(wire: Wire, frame: Frame) -> None:
        if frame.kind != "run":
            raise UsageError(f"{frame.kind[:40]!r} is no command")
        command, arguments = understood(frame.texts("argv"), actor)
        env = {**os.environ, VARIABLE: actor.text()}
        relay.run(wire, arguments, env, relay.Screen.told(frame), lambda pid: command == "follow" and _drives(app, pid))

    def give(wire: Wire, frame: Frame) -> None:
        import asyncio

        from distribute_ssh.cli.stored import give_results

        if frame.kind != "results":
            raise UsageError(f"{frame.kind[:40]!r} names no results")
        asyncio.run(give_results(app, wire, frame.text("batch", 1000)))

    return Site(
        actor=actor, places=app.places, queue=lambda: app.queue, inventory=lambda: app.nodes, who=app.user,
        is_driven=lambda: app.is_driven, run=run, give=give, place=lambda: _place(app, actor.user),
    )  # fmt: skip


def _forget_environment() -> None:
    """Keep nothing of what sshd may have taken from the client (AcceptEnv)."""
    account = pwd.getpwuid(os.getuid())
    os.environ.clear()
    os.environ.update(HOME=account.pw_dir, USER=account.pw_name, LOGNAME=account.pw_name, PATH=_PATH, LANG="C.UTF-8")


@contextlib.contextmanager
def _place(app: App, user: str | None) -> Iterator[None]:
    """One of the places a person has at this head. Raises LimitError where all are taken."""
    if user is None:
        yield
        return
    folder = app.places.state / "gateways"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for number in range(AT_ONCE):
        fd = os.open(folder / f"{user}.{number}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            continue
        try:
            yield
        finally:
            os.close(fd)
        return
    raise LimitError(f"{user} has {AT_ONCE} conversations with this head already", hint="end some of them")


def _drives(app: App, pid: int) -> bool:
    """Whether the queue would be driven by nobody without that process."""
    from distribute_ssh.store.lock import CoordinatorLock

    holder = CoordinatorLock(app.places.lock).holder()
    return not app.is_driven or (holder is not None and holder.pid == pid)


def understood(asked: list[str], actor: Actor) -> tuple[str, list[str]]:
    """What somebody elsewhere asked for: the command's name, and its arguments put together anew from what was parsed.

    Raises DeniedError for what this actor may not run, UsageError for what is no command line of ours. No file name and
    no place of ours is ever taken: what would be one is refused here, and a batch is looked up by name only.
    """
    from distribute_ssh.cli.program import program

    for each in asked:
        try:
            each.encode()
        except UnicodeEncodeError:  # a name in the queue is text, and no name of a file is taken anyway
            raise UsageError(f"{each[:60]!a} is no text") from None
    app = App()
    context: click.Context
    try:
        # `--help` and `--version` print and leave, which here would be in the middle of the frames.
        with contextlib.redirect_stdout(io.StringIO()):
            context = program.make_context("distribute", list(asked), obj=app)
            while isinstance(context.command, click.Group) and (rest := [*context._protected_args, *context.args]):
                name, command, left = context.command.resolve_command(context, rest)
                assert name is not None, "resolve_command raises where there is none"
                assert command is not None, "resolve_command raises where there is none"
                context = command.make_context(name, left, parent=context)
    except click.exceptions.Exit:
        raise UsageError("help is given where you are") from None
    except click.ClickException as error:
        raise UsageError(error.format_message()) from None
    name = context.command_path.removeprefix("distribute").strip()
    if why := actor.why_not_run(name):
        raise DeniedError(why, hint="`distribute COMMAND --help` says what there is" if not name else None)
    if any(
        isinstance(each.type, click.Path) and context.params.get(each.name or "") for each in context.command.params
    ):
        raise DeniedError("nothing that names a file is taken from elsewhere")
    if app.inventory is not None or app.head is not None or app.debug:
        raise DeniedError("--inventory, --head and --debug are not taken from elsewhere")
    if "batch" in context.params:
        _check_name(context.params["batch"])
    if actor.role is Role.NODE and "node" in context.params:
        context.params["node"] = context.params["node"] or actor.node
        if why := actor.why_not_node(context.params["node"], only_pause=True):
            raise DeniedError(why)
    if name in ("pause", "resume") and context.params["node"] is None:
        # Without a name it is the machine that is typed at, which here would be the head.
        raise UsageError("say which node: the machine you are at is none that the head knows by your key")
    return name, spelled(context, app)


def _check_name(batch: str | None) -> None:
    from distribute_ssh.model.names import check_name

    if batch is None:
        return
    for part in batch.split("/", 1):
        if wrong := check_name(part):
            raise UsageError(f"{batch[:200]!r} names no batch: {wrong}")
