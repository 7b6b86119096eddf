"""What `pull`, `verify` and `archive list` show: what came or would come, what does not and why, what is there."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from distribute_ssh.model.units import format_size
from distribute_ssh.views.text import Column, count, listed, safe, table

SHOWN = 20
_FATES = ("refused", "left out", "here", "comes")


def pulled_text(pulled: Mapping[str, Any]) -> str:
    """What a pull came to, or would come to."""
    came = f"{count(pulled['files'], 'file')}, {format_size(pulled['bytes'])}"
    verb = "would come" if pulled["dry"] else "came"
    words = [f"{came} {verb} into {safe(pulled['into'])}"]
    if pulled["here"]:
        words.append(f"{pulled['here']:,} here already")
    if pulled["left_out"]:
        words.append(f"{pulled['left_out']:,} left out")
    if pulled["unverified"] and not pulled["dry"]:
        words.append(f"{pulled['unverified']:,} in no job.json, so not verified")
    return "; ".join(words) + "\n"


def refused_text(refused: Sequence[Mapping[str, str]], headline: str) -> str:
    """Things that are not here, each with the reason; empty for none."""
    if not refused:
        return ""
    lines = [f"{headline}:", *(f"  {safe(each['path'])}  {safe(each['why'])}" for each in refused[:SHOWN])]
    if len(refused) > SHOWN:
        lines.append(f"  ... and {len(refused) - SHOWN:,} more; --json names all")
    return "\n".join(lines)


def unfinished_text(batch: str, jobs: Sequence[Mapping[str, str]]) -> str:
    """The jobs that are not done yet; empty for none."""
    if not jobs:
        return ""
    verb = "has" if len(jobs) == 1 else "have"
    return f"{batch} is not finished: {listed([job['job'] for job in jobs])} {verb} not ended; pull again later"


def fates_text(entries: Sequence[Mapping[str, Any]]) -> str:
    """Why each file does or does not come. A reason is said once, above all that share it; what comes stands last, so
    that it is what a terminal still shows of ten thousand lines.
    """
    groups = defaultdict[tuple[str, str], list[Mapping[str, Any]]](list)
    for each in entries:
        groups[each["fate"], each["why"]].append(each)
    lines = []
    for (fate, why), those in sorted(groups.items(), key=lambda group: (_FATES.index(group[0][0]), group[0][1])):
        size = format_size(sum(each["size"] for each in those))
        lines.append(f"{fate}: {safe(why)}: {count(len(those), 'file')}, {size}")
        lines += [f"  {_size(each):>10}  {safe(each['path'])}" for each in those]
    return "".join(f"{line}\n" for line in lines)


def listing_table(entries: Sequence[Mapping[str, Any]], *, width: int | None = None) -> str:
    """What is there."""
    columns = [Column("SIZE", right=True), Column("CHANGED"), Column("PATH", gives=True)]
    rows = [
        [_size(each), each["mtime"] or "", each["path"] + (f" -> {each['target']}" if each["target"] else "")]
        for each in entries
    ]
    return table(columns, rows, width=width) if rows else ""


def _size(entry: Mapping[str, Any]) -> str:
    return format_size(entry["size"]) if entry["kind"] == "file" else entry["kind"]


def verified_text(verified: Mapping[str, Any]) -> str:
    """What a comparison of storage with its records came to, a line for each thing that differs."""
    lines = [f"{safe(each['job'])}/{safe(each['path'])}  {safe(each['what'])}" for each in verified["problems"]]
    good = count(len(verified["jobs"]), "job")
    lines.append(f"{verified['batch']}: {good} compared, {count(len(verified['problems']), 'thing')} not as recorded")
    return "\n".join(lines) + "\n"


def batches_text(stored: Sequence[Mapping[str, Any]], free: int | None, *, width: int | None = None) -> str:
    """The batches in storage."""
    columns = [
        Column("BATCH", gives=True),
        Column("SUBMITTER", gives=True),
        Column("STATE"),
        Column("JOBS", right=True),
        Column("FILES", right=True),
        Column("SIZE", right=True),
        Column("CHANGED"),
    ]
    rows = [
        [
            each["name"],
            each["submitter"] or "?",
            each["state"] or "?",
            f"{each['jobs']:,}",
            f"{each['files']:,}",
            format_size(each["bytes"]),
            (each["changed_at"] or "")[:10],
        ]
        for each in stored
    ]
    text = table(columns, rows, width=width) if rows else ""
    whole = format_size(sum(each["bytes"] for each in stored))
    room = "" if free is None else f", {format_size(free)} free"
    return text + f"{count(len(stored), 'batch')}, {whole}{room}\n"
