"""A batch as it goes, on a terminal: a bar, a line for each job on a node, bytes on the line, and the time left."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from distribute_ssh.model.job import OUTCOMES, State
from distribute_ssh.model.units import format_duration
from distribute_ssh.views.batches import colour_of
from distribute_ssh.views.progress import Passage, Picture, counts_line, passage_line
from distribute_ssh.views.text import middle, safe

LEAST_ROWS = 3
OTHER_ROWS = 6  # bar, counts, remark, and some room to see where the view ends


def live(picture: Picture, width: int, height: int) -> RenderableType:
    """Everything that moves, in at most `height` lines; what does not fit is counted."""
    parts: list[RenderableType] = [_headline(picture, width), Text("  " + counts_line(picture.counts))]
    room = max(height - OTHER_ROWS, LEAST_ROWS)
    moving = picture.moving[: max(room // 3, 1)]
    parts.append(_jobs(picture, width, room - len(moving)))
    parts.extend(Text(f"  {safe(str(each))}", style="blue", no_wrap=True, overflow="ellipsis") for each in moving)
    if picture.waits:
        parts.append(Text(middle(f"  waits: {safe(picture.waits)}", 2 * width - 20), style="yellow"))
    parts.append(Text("  Ctrl-C leaves it running", style="dim"))
    return Group(*parts)


def _headline(picture: Picture, width: int) -> RenderableType:
    ended, total = picture.progress
    row = Table.grid(padding=(0, 2))
    row.add_column(no_wrap=True)
    row.add_column(width=max(min(30, width // 4), 8))
    row.add_column(no_wrap=True, overflow="ellipsis")
    left = f"ETA {picture.eta} ({picture.eta.basis})" if picture.eta else ""
    row.add_row(
        Text(middle(picture.name, max(width // 3, 12)), style="bold"),
        ProgressBar(total=max(total, 1), completed=ended, complete_style="cyan", finished_style="green"),
        Text(f"{ended:,}/{total:,}  {format_duration(max(picture.now - picture.began, 0.0))}  {left}".rstrip()),
    )
    return row


def _jobs(picture: Picture, width: int, rows: int) -> RenderableType:
    rows = max(rows, LEAST_ROWS)
    shown = picture.active if len(picture.active) <= rows else picture.active[: rows - 1]
    grid = Table.grid(padding=(0, 2))
    for _ in range(5):
        grid.add_column(no_wrap=True, overflow="ellipsis")
    for job in shown:
        grid.add_row(
            Text("  " + middle(safe(job.job), max(width // 3, 12))),
            Text(job.state, style=colour_of(job.state) or ""),
            Text(safe(job.node)),
            Text("" if job.since is None else format_duration(max(picture.now - job.since, 0.0))),
            Text(safe(job.remark or ""), style="yellow"),
        )
    if len(shown) < len(picture.active):
        grid.add_row(Text(f"  ... and {len(picture.active) - len(shown):,} more"))
    return grid


def failure(passage: Passage) -> Text | None:
    """The line that stays on the screen for a job that did not end well."""
    if passage.state not in OUTCOMES or passage.state is State.DONE:
        return None
    return Text(passage_line(passage), style=colour_of(passage.state) or "")
