"""`where` and `completion`: how the program sits on this machine."""

from __future__ import annotations

import click

from distribute_ssh.cli.app import App
from distribute_ssh.cli.group import Here
from distribute_ssh.errors import UsageError
from distribute_ssh.views.document import document
from distribute_ssh.views.text import safe


@click.command(cls=Here)
@click.pass_obj
def where(app: App) -> None:
    """Show every folder and file in use, whether it exists yet or not."""
    found: dict[str, str | None] = {**app.places.describe()}
    in_use = app.find_inventory()
    found["inventory"] = str(in_use) if in_use else None
    found["storage"] = app.nodes.storage
    if at := app.away:
        found["head"] = at.name
    none = f"none, so this machine is the only node; {app.places.inventory} would be read"
    wide = max(map(len, found))
    app.answer(
        document(where=found),
        lambda: "".join(f"{name:{wide}}  {safe(path or none)}\n" for name, path in found.items()),
        filter(None, found.values()),
    )


@click.command(cls=Here)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_obj
def completion(app: App, shell: str) -> None:
    """Print the completion script of a shell.

    \b
    bash:  distribute completion bash > ~/.local/share/bash-completion/completions/distribute
    zsh:   distribute completion zsh > ~/.zfunc/_distribute
    fish:  distribute completion fish > ~/.config/fish/completions/distribute.fish
    """
    from click.shell_completion import get_completion_class

    from distribute_ssh.cli.program import program

    found = get_completion_class(shell)
    if found is None:
        raise UsageError(f"there is no completion for {shell}")
    text = found(program, {}, "distribute", "_DISTRIBUTE_COMPLETE").source() + "\n"
    app.answer(document(shell=shell, text=text), lambda: text)
