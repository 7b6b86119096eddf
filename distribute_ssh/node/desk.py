"""The desk of a node: letting the people at it pause the machine themselves, with a program that needs no network."""

from __future__ import annotations

import shlex
from collections.abc import Iterable

from distribute_ssh.errors import NodeError, ScratchError
from distribute_ssh.node.channel import Channel
from distribute_ssh.node.link import Link

_INSTALL = """
folder={folder} program={program}
if [ -z "$folder" ]; then
    if [ -w /usr/local/bin ]; then folder=/usr/local/bin; else folder=$HOME/.local/bin; fi
fi
case $folder in '~/'*) folder=$HOME/${{folder#'~/'}} ;; esac
mkdir -p "$folder" || exit 3
target=$folder/distribute
if [ -e "$target" ] && [ ! -L "$target" ]; then echo "$target"; exit 4; fi
if [ -L "$target" ]; then
    case $(readlink "$target") in */distribute-*-desk/distribute) ;; *) echo "$target"; exit 4 ;; esac
fi
ln -sf "$program" "$target" && echo "$target"
"""

_REMOVE = """
folder={folder} program={program}
case $folder in '~/'*) folder=$HOME/${{folder#'~/'}} ;; esac
for folder in ${{folder:+"$folder"}} /usr/local/bin "$HOME/.local/bin"; do
    if [ "$(readlink "$folder/distribute")" = "$program" ]; then rm -f "$folder/distribute"; fi
done
"""


async def open_desk(channel: Channel, name: str, most: float, owners: Iterable[str]) -> str:
    """Obey requests from the desk of this node; where its program lies, on the node.

    `most`: seconds that a pause may take; `owners`: login names that are obeyed without being logged in there. To be
    said again whenever they change. Raises UnreachableError, and ScratchError where there is no room or the place is
    somebody else's.
    """
    _, end = await channel.request("desk", str(int(most)), name, *owners)
    if not end.ok or not end.detail.startswith("/"):
        raise ScratchError(f"{name}: no folder for requests could be made beside {channel.root}")
    return f"{end.detail}/distribute"


async def close_desk(channel: Channel, link: Link, folder: str | None) -> None:
    """Obey no more, and take away what people typed. Raises UnreachableError."""
    _, end = await channel.request("undesk")
    script = _REMOVE.format(folder=shlex.quote(folder or ""), program=shlex.quote(f"{end.detail}/distribute"))
    await link.run(script)


async def install(link: Link, program: str, folder: str | None) -> str:
    """Put a link to the program where people's shells find it; its path.

    In `folder`, else in /usr/local/bin if we may write there, else in the ~/.local/bin of our account. Raises
    UnreachableError, and NodeError where there is another program of that name, or no right to write.
    """
    ended = await link.run(_INSTALL.format(folder=shlex.quote(folder or ""), program=shlex.quote(program)))
    said = ended.stdout.decode(errors="replace").strip()
    if ended.status == 4:
        raise NodeError(
            f"{link.node}: {said} is another program, which stays",
            hint=f"--path names another folder; or people there say {program} pause",
        )
    if not ended.ok or not said:
        why = ended.stderr.decode(errors="replace").strip().splitlines()
        raise NodeError(
            f"{link.node}: the program could not be put in place: {why[-1] if why else 'no right to write there'}",
            hint=f"--path names another folder; or people there say {program} pause",
        )
    return said
