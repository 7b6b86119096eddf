"""The program itself: its commands, each with the module that holds it and one line of help."""

from __future__ import annotations

from typing import ClassVar

import click

from distribute_ssh import __version__
from distribute_ssh.cli.group import EXIT_CODES, Family, Sections


class Program(Family):
    """`distribute`."""

    sections: ClassVar[Sections] = {
        "Work": {
            "run": ("run", "Submit a jobs file and follow it to its end."),
            "add": ("run", "Submit a jobs file and return."),
            "follow": ("back", "Come back to a batch, and follow it to its end."),
            "status": ("status", "Show batches, or the jobs of one."),
            "explain": ("explain", "Say why jobs wait, or why they failed."),
            "logs": ("logs", "Show what a job or a build printed."),
            "pull": ("pull", "Bring the results of a batch here."),
            "verify": ("verify", "Compare a batch in storage with its records."),
            "archive": ("archive", "Show the batches in storage, and remove one."),
            "kill": ("kill", "End jobs."),
            "hold": ("hold", "Hold jobs back that wait in the queue."),
            "release": ("hold", "Let jobs start that were held back."),
            "retry": ("kill", "Queue jobs again that did not end well."),
            "history": ("history", "Show what happened, and who had how much."),
            "notify": ("notify", "Show what was told of batches that ended; test it."),
            "slurm": ("slurm", "Write a folder that runs a batch on a Slurm cluster."),
        },
        "Machines": {
            "pause": ("pause", "Stop all that runs on a node, for a while."),
            "resume": ("pause", "Let all that runs on a node go on."),
            "nodes": ("nodes", "Show nodes; probe, trust, drain and examine them."),
            "users": ("users", "Say who may use this head, and with which key."),
            "gateway": ("gateway", "What sshd starts for a user's key."),
            "runner": ("runner", "Drive the queue: for ever, or one pass for cron."),
            "backup": ("backup", "Write a copy of the queue."),
            "recover": ("backup", "Make a lost queue anew from what storage holds."),
        },
        "Help": {
            "template": ("template", "Write a jobs file to start from."),
            "where": ("where", "Show every folder and file in use."),
            "completion": ("where", "Print the completion script of a shell."),
        },
    }


def _version(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value:
        click.echo(f"distribute {__version__}")
        context.exit()


program = Program(
    "distribute",
    help="Run batches of jobs on the machines of a lab, over nothing but ssh.",
    epilog=EXIT_CODES,
    context_settings={"help_option_names": ["-h", "--help"]},
    params=[
        click.Option(
            ["--version"], is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version."
        )
    ],
)
