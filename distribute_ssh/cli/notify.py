"""`notify`: what is told of batches that ended, and whether it would arrive."""

from __future__ import annotations

import os
import platform
import time
from typing import TYPE_CHECKING, Any

import click

from distribute_ssh.cli.app import App
from distribute_ssh.cli.group import Verb
from distribute_ssh.errors import NotifyError, UsageError
from distribute_ssh.model.units import iso
from distribute_ssh.views.document import document
from distribute_ssh.views.notice import messages_table, trial, trials_text

if TYPE_CHECKING:
    from distribute_ssh.store.outbox import Message

SHOWN = 100


@click.command(cls=Verb)
@click.argument("to", required=False)
@click.option("--test", is_flag=True, help="Send a test message, and say what came of it.")
@click.pass_obj
def notify(app: App, to: str | None, test: bool) -> int:
    """Show what was told of batches that ended, what waits, and what was given up.

    With --test, TO is the name of a channel, or a Matrix user id. Without it, all are tested through which you are told
    yourself, or else every channel there is.
    """
    if not test:
        if to is not None:
            raise UsageError(f"to {to}: what?", hint="`distribute notify --test TO` sends a test message")
        messages = [_data(message) for message in app.queue.messages(SHOWN)] if app.has_queue else []
        batches = dict.fromkeys(str(each["batch"]) for each in messages)
        app.answer(document(outbox=messages), lambda: messages_table(messages, time.time(), width=app.width), batches)
        if not messages:
            app.say("nothing was told yet: `matrix:` and `notify:` of a jobs file say whom to tell")
        return 0
    trials = _trials(app, to)
    app.answer(
        document(tests=trials), lambda: trials_text(trials), [str(each["to"]) for each in trials if each["sent"]]
    )
    return 0 if all(each["sent"] for each in trials) else NotifyError.exit_code


def _data(message: Message) -> dict[str, Any]:
    waits = message.state == "waiting"
    return {
        "batch": message.notice["batch"],
        "finished_at": iso(message.at),
        "to": message.recipient,
        "state": message.state,
        "tries": message.tries,
        "next_at": iso(message.next_at) if waits else None,
        "ended_at": None if message.ended_at is None else iso(message.ended_at),
        "trouble": message.trouble,
    }


def _trials(app: App, to: str | None) -> list[dict[str, Any]]:
    from distribute_ssh.model.notify import Notify
    from distribute_ssh.notices.channels import Channels  # an HTTP client, which the list needs not

    configured = app.config.notify or Notify()
    channels = Channels(configured, app.places.config_file, os.environ)
    recipients = (to,) if to else configured.recipients(app.user, ()) or tuple(configured.channels)
    if not recipients:
        hint = "name one (a channel, or a Matrix user id), or put yourself into `notify: users:` of the config file"
        raise UsageError("there is nobody to send a test to", hint=hint)
    words = trial(app.user, platform.node())
    trials = []
    for recipient in recipients:
        error = None
        try:
            channels.channel(recipient).send(recipient, words, f"test-{os.urandom(8).hex()}")
        except NotifyError as caught:
            error = str(caught)
        trials.append({"to": recipient, "sent": error is None, "error": error})
    return trials
