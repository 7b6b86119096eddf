"""Commands on a head: parsed here, understood there, and as if they had been typed there."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from distribute_ssh.cli.app import App, write
from distribute_ssh.cli.meter import Meter
from distribute_ssh.cli.names import of_file
from distribute_ssh.cli.spelled import spelled
from distribute_ssh.errors import HeadError, UnreachableError, UsageError
from distribute_ssh.head import client as head
from distribute_ssh.head import upload
from distribute_ssh.head.offer import Offer
from distribute_ssh.model.job import NodeState
from distribute_ssh.model.jobsfile import BatchSpec
from distribute_ssh.model.units import format_size
from distribute_ssh.plan.snapshot import NodeView
from distribute_ssh.views import progress
from distribute_ssh.views.document import dump
from distribute_ssh.views.text import count

if TYPE_CHECKING:
    from distribute_ssh.model.settings import Head

T = TypeVar("T")


def act(app: App, at: Head, context: click.Context) -> int:
    """Do on the head what was asked for; returns the exit code."""
    if app.inventory is not None:
        raise UsageError(f"--inventory is a file of this machine, and the command acts on {at.name}")
    name = context.command_path.removeprefix("distribute").strip()
    if name in ("run", "add"):
        return _submit(app, at, **context.params)
    if text := context.params.get("batch"):
        context.params["batch"] = of_file(text) or text
    # A question can be answered only where there is somebody to ask.
    asks = context.params.get("yes") is False
    return asyncio.run(_command(app, at, spelled(context, app), head.printed, asks=asks))


async def _command(app: App, at: Head, arguments: list[str], take: head.Take, **more: bool) -> int:
    async with head.connected(at, app.places) as line:
        return await head.command(line, arguments, take, **({"asks": False} | more))


def _captured(app: App, at: Head, arguments: list[str]) -> tuple[int, dict[str, Any]]:
    """Run a command with --json; its exit code and its document. What it says to people is shown."""
    out = bytearray()

    def take(kind: str, data: bytes) -> None:
        if kind == "out":
            out.extend(data)
        else:
            head.printed(kind, data)

    code = asyncio.run(_command(app, at, [*arguments[:1], "--json", *arguments[1:]], take, captured=True))
    try:
        found = json.loads(out)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or "schema" not in found:
        raise HeadError(f"{at.name} answered with what is no document of ours")
    return code, found


def _submit(
    app: App,
    at: Head,
    jobs: Path,
    fresh: bool,
    replace: bool,
    detach: bool = True,
    plan_only: bool = False,
    pulls: bool = False,
) -> int:
    from distribute_ssh.cli.run import leave, pull_results, read_jobs, show_plan

    spec = read_jobs(app, jobs)
    if plan_only:
        return show_plan(app, spec, _nodes(app, at))
    accepted = _bring(app, at, jobs, spec, fresh, replace)
    if accepted.files:
        app.say(f"sent {accepted.files:,} of {count(accepted.of, 'file')}, {format_size(accepted.sent)}")
    app.say(progress.submitted_line(accepted.submitted, len(spec.jobs)))
    if detach:
        return leave(app, accepted.submitted, jobs, driven=accepted.driven)
    then = partial(pull_results, app, str(accepted.submitted["name"])) if pulls else dict
    return _follow(app, at, accepted.submitted, then)


def _nodes(app: App, at: Head) -> list[NodeView]:
    """The head's nodes, as far as a plan needs them."""
    _, told = _captured(app, at, ["nodes"])
    try:
        if "nodes" not in told:
            raise HeadError(str(told["error"]["message"]), hint=told["error"]["hint"])
        return [
            NodeView(
                each["name"], NodeState(each["state"]), frozenset(each["capabilities"]), each["cores"] or 0,
                each["memory_mb"] or 0, each["slots"], (), probed=each["probed"],
            )
            for each in told["nodes"]
        ]  # fmt: skip
    except (KeyError, TypeError, ValueError):  # a node may be in a state that a newer head knows
        raise HeadError(f"{at.name} says of its nodes what is not known here", hint="upgrade distribute here") from None


def _bring(app: App, at: Head, jobs: Path, spec: BatchSpec, fresh: bool, replace: bool) -> upload.Accepted:
    with Meter(app) as meter:
        done = 0

        def tick(read: int) -> None:
            nonlocal done
            done += read
            meter.tell("reading", done)

        offer = Offer(spec, upload.identified(spec, tick), fresh, replace)
    with Meter(app) as meter:
        path = Path(os.path.abspath(jobs))  # as it was written: links and all

        def say(text: str) -> None:
            meter.clear()
            app.warn(text)

        progress = partial(meter.tell, "sending")
        return asyncio.run(upload.submit(at, app.places, path, offer, progress=progress, say=say))


def _follow(app: App, at: Head, submitted: dict[str, Any], then: Callable[[], dict[str, Any]]) -> int:
    name = str(submitted["name"])
    arguments = ["follow", *(["--quiet"] if app.quiet else []), "--", name]
    if not app.json:
        code = _patiently(app, name, lambda: asyncio.run(_command(app, at, arguments, head.printed)))
        return max(code, _short(then())) if code in (0, 1) else code
    code, told = _patiently(app, name, lambda: _captured(app, at, arguments))
    if "error" not in told:
        told = {"schema": told["schema"], "submitted": submitted, **told, **(more := then())}
        code = max(code, _short(more))
    write(sys.stdout, dump(told) + "\n")
    return code


def _patiently(app: App, name: str, follow: Callable[[], T]) -> T:
    """Come back where the line is lost: a laptop sleeps, a VPN drops, and the batch goes on meanwhile."""
    for pause in head.COME_BACK:
        try:
            return follow()
        except UnreachableError as error:
            app.warn(f"{error.message}; {name} goes on there; coming back in {pause:.0f} s")
            time.sleep(pause)  # growing: the line comes back when it does, and says nothing of it
    try:
        return follow()
    except UnreachableError as error:
        hint = f"distribute follow {name}  comes back to it"
        raise UnreachableError(f"{error.message}; {name} goes on without us", hint=hint) from error


def _short(told: dict[str, Any]) -> int:
    """The exit code of a pull at the end."""
    return 1 if told.get("pull") and told["pull"]["problems"] else 0
