"""`pull`: the results of a batch, or a part of them, from storage to here."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from distribute_ssh.cli.app import App
from distribute_ssh.cli.group import Here
from distribute_ssh.cli.meter import Meter
from distribute_ssh.cli.names import complete_batch, no_match
from distribute_ssh.cli.stored import open_results
from distribute_ssh.errors import HeadError, UsageError
from distribute_ssh.model.units import format_size, iso
from distribute_ssh.storage.selection import Selection, text_of, wrong_name
from distribute_ssh.views import pulling
from distribute_ssh.views.document import Document, document
from distribute_ssh.views.text import count

if TYPE_CHECKING:
    from distribute_ssh.head.fetching import Offered
    from distribute_ssh.storage.arriving import Came
    from distribute_ssh.storage.pull import Pulled, Row

_KINDS = {"f": "file", "d": "folder", "l": "link"}


@click.command(cls=Here)
@click.argument("batch", metavar="JOBS|BATCH", shell_complete=complete_batch)
@click.argument("form", required=False, type=click.Choice(["include", "exclude"]), metavar="[include|exclude]")
@click.option("-i", "--include", multiple=True, metavar="RE", help="Only paths in which this is found; repeatable.")
@click.option("-e", "--exclude", multiple=True, metavar="RE", help="No paths in which this is found; it wins.")
@click.option("--job", "jobs", multiple=True, metavar="NAME", help="Only the results of this job; repeatable.")
@click.option("-d", "--dry", is_flag=True, help="Show what would come, what not, and why; bring nothing.")
@click.option("--list", "list_only", is_flag=True, help="Show what is there; bring nothing.")
@click.option("-s", "--skip-folders", is_flag=True, help="Make no folders but those that hold a file that is chosen.")
@click.option(
    "--save-dir", type=click.Path(path_type=Path), default=".", show_default=True, metavar="DIR", help="Where to."
)
@click.pass_obj
def pull(
    app: App,
    batch: str,
    form: str | None,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    jobs: tuple[str, ...],
    dry: bool,
    list_only: bool,
    skip_folders: bool,
    save_dir: Path,
) -> int:
    """Bring the results of a batch here, into a folder of its name below DIR.

    RE are Python regular expressions, searched in the path inside the batch, as in `re_100/out/u.h5`. What is here and
    unchanged is skipped, what was cut off goes on, and every file is compared with its job's record. Jobs that have not
    ended yet are named.
    """
    if form == "include" and not include:
        raise UsageError("say what to include", hint=r"distribute pull JOBS include --include '\.h5$'")
    selection = Selection(include, exclude, jobs)
    if list_only or dry:
        found, opened = _look(app, batch, selection, save_dir, skip_folders=skip_folders)
        _require_jobs(jobs, found.rows, opened)
        if list_only:
            return _show_list(app, found, opened)
        return _show_dry(app, found, opened, save_dir / _folder(opened))
    code, content = bring(app, batch, save_dir, selection, jobs, skip_folders=skip_folders)
    app.answer(document(pull=content), lambda: pulling.pulled_text(content), [content["into"]])
    return code


def bring(
    app: App,
    batch: str,
    save_dir: Path,
    selection: Selection,
    jobs: Sequence[str] = (),
    *,
    skip_folders: bool = False,
) -> tuple[int, Document]:
    """Pull; returns the exit code, and what it came to. What did not come is told on stderr."""
    from distribute_ssh.storage.pull import pull as fetch

    async def act() -> tuple[Pulled, Offered]:
        async with open_results(app, batch) as opened:
            target = save_dir / _folder(opened)
            with Meter(app) as meter:

                def tell(came: Came) -> None:
                    files = f"{came.files:,} of {count(came.all_files, 'file')}"
                    meter.tell(files, came.bytes, came.all_bytes)

                found = await fetch(opened.results, target, selection, skip_folders=skip_folders, progress=tell)
            return found, opened

    try:
        pulled, opened = asyncio.run(act())
    except KeyboardInterrupt:
        app.warn("\nwhat came so far is kept; the same command goes on where it stopped")
        raise
    _require_jobs(jobs, pulled.rows, opened)
    content = _document(pulled, opened, save_dir / _folder(opened), dry=False)
    _warn(app, content)
    return (1 if pulled.problems else 0), content


def _look(app: App, batch: str, selection: Selection, save_dir: Path, *, skip_folders: bool) -> tuple[Pulled, Offered]:
    from distribute_ssh.storage.pull import look

    async def act() -> tuple[Pulled, Offered]:
        async with open_results(app, batch) as opened:
            target = save_dir / _folder(opened)
            return await look(opened.results, target, selection, skip_folders=skip_folders), opened

    return asyncio.run(act())


def _show_dry(app: App, found: Pulled, opened: Offered, target: Path) -> int:
    content = _document(found, opened, target, dry=True)
    files = [each for each in content["entries"] if each["kind"] != "folder"]
    coming = [each["path"] for each in files if each["fate"] == "comes"]
    app.answer(document(pull=content), lambda: pulling.fates_text(files), coming)
    app.say(pulling.pulled_text(content))
    _warn(app, content)
    return 0


def _show_list(app: App, found: Pulled, opened: Offered) -> int:
    there = [row for row in found.rows if row.fate != "left out" and row.item.kind != "d"]
    entries = [_entry(row) for row in sorted(there, key=lambda row: row.path)]
    files = [row.item.size for row in there if row.item.kind == "f"]
    content = {"batch": opened.batch, "files": len(files), "bytes": sum(files), "entries": entries}
    app.answer(
        document(results=content | {"unfinished": opened.unfinished}),
        lambda: pulling.listing_table(entries, width=app.width),
        [each["path"] for each in entries],
    )
    app.say(f"{opened.batch}: {count(len(files), 'file')}, {format_size(sum(files))}")
    if opened.unfinished:
        app.say(pulling.unfinished_text(opened.batch, opened.unfinished))
    return 0


def _folder(opened: Offered) -> str:
    """What the batch's folder is called here. A head may say anything; a name is only what could be a batch."""
    namespace, _, batch = opened.batch.partition("/")
    if wrong := wrong_name(namespace, batch):
        raise HeadError(f"the head tells of a batch that cannot be: {wrong}")
    return batch


def _require_jobs(jobs: Sequence[str], rows: Sequence[Row], opened: Offered) -> None:
    there = {text_of(row.path.partition(b"/")[0]) for row in rows}
    known = {name.casefold() for name in there} | {job["job"].casefold() for job in opened.unfinished}
    for name in jobs:
        if name.casefold() not in known:
            raise no_match(
                f"job in {opened.batch}", name, sorted(there), "`distribute pull --list` shows what is there"
            )


def _document(pulled: Pulled, opened: Offered, target: Path, *, dry: bool) -> Document:
    files = [row for row in pulled.rows if row.item.kind != "d"]
    coming = [row for row in files if row.fate == "comes"]
    content = {
        "batch": opened.batch,
        "into": str(target),
        "dry": dry,
        "files": len(coming) if dry else pulled.files,
        "bytes": sum(row.item.size for row in coming if row.item.kind == "f") if dry else pulled.size,
        "here": sum(row.fate == "here" for row in files),
        "left_out": sum(row.fate == "left out" for row in files),
        "unverified": pulled.unverified,
        # A link that was blocked is a problem already.
        "refused": [
            {"path": text_of(row.path), "why": row.why}
            for row in files
            if row.fate == "refused" and row.path not in pulled.problems
        ],
        "problems": [{"path": text_of(path), "why": why} for path, why in sorted(pulled.problems.items())],
        "unfinished": opened.unfinished,
    }
    if dry:
        rows = sorted(pulled.rows, key=lambda row: row.path)
        content["entries"] = [_entry(row) | {"fate": str(row.fate), "why": row.why} for row in rows]
    return content


def _entry(row: Row) -> dict[str, Any]:
    return {
        "path": text_of(row.path),
        "kind": _KINDS.get(row.item.kind, "other"),
        "size": row.item.size if row.item.kind == "f" else 0,
        "mtime": iso(row.item.mtime_ns / 1e9) if row.item.mtime_ns else None,
        "mode": f"{row.item.mode:04o}" if row.item.kind in "fd" else None,
        "target": text_of(row.item.target) if row.item.kind == "l" else None,
    }


def _warn(app: App, content: Mapping[str, Any]) -> None:
    if content["problems"]:
        app.warn(pulling.refused_text(content["problems"], "not here"))
    if content["refused"] and not content["dry"]:  # that says of everything what becomes of it
        app.say(pulling.refused_text(content["refused"], "left in storage"))
    if content["unfinished"]:
        app.say(pulling.unfinished_text(content["batch"], content["unfinished"]))
