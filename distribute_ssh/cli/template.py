"""`template`: a jobs file to start from."""

from __future__ import annotations

from pathlib import Path

import click

from distribute_ssh.cli.app import App
from distribute_ssh.cli.group import Here
from distribute_ssh.errors import UsageError
from distribute_ssh.model.template import apptainer_template, python_template
from distribute_ssh.views.document import document

NAME = "distribute-jobs.yaml"


@click.command(cls=Here)
@click.argument("kind", type=click.Choice(["python", "apptainer"]))
@click.option("--output", metavar="FILE", default=NAME, show_default=True, help="Where to write it; - prints it.")
@click.option("--force", is_flag=True, help="Replace a file that is there.")
@click.pass_obj
def template(app: App, kind: str, output: str, force: bool) -> None:
    """Write a jobs file to start from: for scripts (python) or for an image (apptainer)."""
    text = python_template() if kind == "python" else apptainer_template()
    if output == "-":
        app.answer(document(template=kind, text=text), lambda: text)
        return
    path = Path(output)
    try:
        with path.open("w" if force else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise UsageError(
            f"{output} is there already", hint="--force replaces it, --output FILE writes another"
        ) from None
    app.say(f"wrote {output}; edit it, then: distribute run {output}")
    app.answer(document(template=kind, path=str(path.absolute())), str, [output])
