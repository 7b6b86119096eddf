"""A jobs file as a batch that Python can go on with: every text stays as it was written."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from distribute_ssh.api.batch import ApptainerBatch, Batch, BatchOptions, Entry, Place, PythonBatch, Resources
from distribute_ssh.api.yamlwriter import Tree, Written
from distribute_ssh.model import jobsfile, yamltext
from distribute_ssh.model.yamltext import Node, Scalar, Sequence


def read(path: Path) -> PythonBatch | ApptainerBatch:
    """Read a jobs file and check all of it. Raises FileError, UsageError."""
    spec = jobsfile.read(path)
    root = _data(yamltext.load(spec.source, str(path)))
    meta, work = root["meta"], root.get("python") or root.get("apptainer") or root["singularity"]
    initialize = work["initialize"]
    options = {key: value for key, value in meta.items() if value is not None or key == "resources"}
    for key in ("namespace", "batch_name", "capabilities"):
        options.pop(key, None)
    if isinstance(options.get("notify"), str):
        options["notify"] = [options["notify"]]
    if options.get("resources") is not None:
        options["resources"] = _resources(options["resources"])
    if "max_attempts" in options:
        options["max_attempts"] = int(options["max_attempts"])
    if "private" in options:
        options["private"] = spec.private
    if spec.slurm is not None:
        options["slurm"] = spec.slurm
    if files := initialize.get("required_files"):
        options["required_files"] = [_file(each) for each in files]
    place = Place(str(path), 1)
    entries = [_entry(job, place) for job in work["jobs"]]
    said: BatchOptions = options  # type: ignore[assignment]  # the file was checked
    name, capabilities = str(meta["batch_name"]), [str(each) for each in meta["capabilities"] or []]
    begun = (str(meta["namespace"]), name, capabilities, said, spec.folder, entries, place)
    if spec.kind == "python":
        return PythonBatch(*begun, build=_file(initialize["build_file"]))
    mounts = [str(each) for each in initialize.get("required_mounts") or []]
    return ApptainerBatch(*begun, sif=_file(initialize["sif"]), mounts=mounts)


def moved(batch: Batch, folder: Path) -> Batch:
    """The same batch seen from another folder: relative paths lead to the same files."""
    if folder == batch.folder:
        return batch
    # Of the real folders: `..` behind a link leads up from where the link leads to.
    way = os.path.relpath(batch.folder.resolve(), folder.resolve())

    def path(text: str) -> str:
        return text if way == "." else os.path.join(way, text)  # which is `text` where that is absolute

    def file(given: Any) -> Any:
        where, alias = given if isinstance(given, tuple) else (given, None)
        # Without an alias the name on the node is the path's last part, which stays as it is.
        return (path(os.fspath(where)), alias)

    options = dict(batch.options)
    if "required_files" in options:
        options["required_files"] = [file(each) for each in batch.options["required_files"]]
    entries = [replace(entry, keys=_moved_keys(entry.keys, path)) for entry in batch.entries]
    changed: dict[str, Any] = {"options": options, "folder": folder, "entries": entries}
    script = "build" if isinstance(batch, PythonBatch) else "sif"
    return replace(batch, **changed, **{script: file(getattr(batch, script))})


def _moved_keys(keys: Tree, path: Callable[[str], str]) -> Tree:
    found = dict(keys)
    if "file" in keys:
        found["file"] = keys["file"] | {"path": path(keys["file"]["path"])}
    if "required_files" in keys:
        found["required_files"] = [each | {"path": path(each["path"])} for each in keys["required_files"]]
    return found


def _resources(said: Tree) -> Resources:
    values: dict[str, Any] = {key: text for key, text in said.items() if text is not None}
    return Resources(**values | {key: int(values[key]) for key in ("cores", "gpus") if key in values})


def _entry(job: Tree, place: Place) -> Entry:
    keys = {key: value for key, value in job.items() if value is not None or key == "resources"}
    for key in ("file", "required_files"):
        if key in keys:
            listed = [{"path": path, "alias": alias} for path, alias in map(_file, _listed(keys[key], key))]
            keys[key] = listed if key == "required_files" else listed[0]
    return Entry(str(job["name"]), {"name": str(job["name"]), **keys}, place)


def _listed(value: Any, key: str) -> list[Any]:
    return list(value) if key == "required_files" else [value]


def _file(written: Any) -> tuple[str, str | None]:
    if isinstance(written, str):
        return str(written), None
    if isinstance(written, list):
        path, alias = written
    else:
        path, alias = written["path"], written.get("alias")
    return str(path), None if alias is None else str(alias)


def _data(node: Node) -> Any:
    if isinstance(node, Scalar):
        if node.is_null:
            return None
        return Written(node.text) if node.plain else node.text
    if isinstance(node, Sequence):
        return [_data(item) for item in node.items]
    return {key.text: _data(value) for key, value in node.entries}
