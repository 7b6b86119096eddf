"""Batches as they are staged: all files in the spool, and what the hashes of jobs are of."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from distribute_ssh.errors import UsageError
from distribute_ssh.model.job import Input
from distribute_ssh.model.jobsfile import BatchSpec, parse
from distribute_ssh.store.spool import Blob, Spool, StagedBatch, Tick, stage
from tests.support.spools import content, sha

STUDY = """
meta: {batch_name: b, namespace: n, capabilities: [], env: {A: 1}}
python:
  initialize: {build_file: build.py, required_files: [common.dat, folder]}
  jobs:
    - {name: one, file: run.py, required_files: [{path: one.json, alias: config.json}], time_limit: 1m}
    - {name: two, file: run.py, required_files: [{path: two.json, alias: config.json}, folder], env: {B: 2}}
    - {name: "s{x}", file: run.py, sweep: {x: [1, 2]}}
"""


@pytest.fixture
def study(tmp_path: Path) -> Path:
    root = tmp_path / "study"
    (root / "folder").mkdir(parents=True)
    for name in ("build.py", "run.py", "common.dat", "one.json", "two.json", "folder/mesh"):
        (root / name).write_text(f"content of {name}")
    (root / "common.dat").chmod(0o755)
    (root / "jobs.yaml").write_text(STUDY)
    return root


def spec_of(study: Path, text: str = STUDY) -> BatchSpec:
    return parse(text, study / "jobs.yaml")


def test_every_file_of_a_batch_is_in_the_spool_when_it_is_staged(study: Path, spool: Spool) -> None:
    staged = stage(spec_of(study), spool)
    assert staged.script == Input("build.py", sha(b"content of build.py"), 19)
    common, folder = staged.init
    assert common == Input("common.dat", sha(b"content of common.dat"), 21, executable=True)
    assert (folder.alias, folder.kind, folder.executable) == ("folder", "tree", False)
    one, two, s1, s2 = staged.jobs
    assert (one.name, one.script, one.time_limit) == ("one", Input("run.py", sha(b"content of run.py"), 17), 60.0)
    assert one.inputs == (Input("config.json", sha(b"content of one.json"), 19),)
    assert [each.alias for each in two.inputs] == ["config.json", "folder"]
    assert two.inputs[1] == folder
    assert (dict(one.env), dict(two.env)) == ({"A": "1"}, {"A": "1", "B": "2"})
    assert dict(s2.env) == {"A": "1", "DISTRIBUTE_PARAM_X": "2"}
    needed = [staged.script, *staged.init, *(x for job in staged.jobs for x in (*job.inputs, job.script) if x)]
    for each in needed:
        assert spool.path_of(each.sha256).stat().st_size == each.size
        assert sha(spool.path_of(each.sha256).read_bytes()) == each.sha256
    assert set(content(spool)) == {each.sha256 for each in needed}
    assert s1.input_hash != s2.input_hash


def test_the_values_of_a_sweep_are_an_input_like_any_other(study: Path, spool: Spool) -> None:
    text = STUDY.replace("{x: [1, 2]}", "{x: [1.50], name: [ü], flag: [true]}").replace("s{x}", "s")
    job = stage(spec_of(study, text), spool).jobs[2]
    (values,) = job.inputs
    assert (values.alias, values.kind) == ("sweep.json", "file")
    assert json.loads(spool.path_of(values.sha256).read_text()) == {"x": 1.5, "name": "ü", "flag": True} == job.sweep


def test_an_apptainer_batch_is_staged_without_scripts(study: Path, spool: Spool) -> None:
    text = "meta: {batch_name: b, namespace: n, capabilities: []}\n"
    text += "apptainer: {initialize: {sif: build.py, required_mounts: [/x]}, jobs: [{name: a}]}"
    staged = stage(spec_of(study, text), spool)
    assert staged.jobs[0].script is None
    other = stage(spec_of(study, text.replace("[/x]", "[/y]")), spool)
    assert other.build_hash != staged.build_hash
    assert other.jobs[0].input_hash != staged.jobs[0].input_hash


def test_staging_again_changes_and_writes_nothing(study: Path, spool: Spool) -> None:
    first = stage(spec_of(study), spool)
    inodes = {path: path.stat().st_ino for path in spool.root.rglob("*")}
    assert stage(spec_of(study), spool) == first
    assert {path: path.stat().st_ino for path in spool.root.rglob("*")} == inodes


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("one.json", {"one"}),
        ("run.py", {"one", "two", "s1", "s2"}),
        ("build.py", {"one", "two", "s1", "s2"}),
        ("common.dat", {"one", "two", "s1", "s2"}),
        ("folder/mesh", {"one", "two", "s1", "s2"}),
    ],
)
def test_another_content_changes_the_hash_of_the_jobs_that_use_it(
    name: str, changed: set[str], study: Path, spool: Spool
) -> None:
    before = stage(spec_of(study), spool)
    (study / name).write_text("something else")
    assert differing(before, stage(spec_of(study), spool)) == changed


EVERY = {"one", "two", "s1", "s2"}


@pytest.mark.parametrize(
    ("old", "new", "changed"),
    [
        ("alias: config.json}], time", "alias: other.json}], time", {"one"}),
        ("env: {B: 2}", "env: {B: 3}", {"two"}),
        ("env: {B: 2}", "env: {C: 2}", {"two"}),
        ("env: {A: 1}", "env: {A: 2}", EVERY),
        ("required_files: [common.dat, folder]", "required_files: [common.dat]", EVERY),
        ("time_limit: 1m", "time_limit: 2m, max_attempts: 3, on_node_loss: wait", set()),
        ("[common.dat, folder]", "[folder, common.dat]", set()),
        ("capabilities: []", "capabilities: [gpu]", set()),
        ("namespace: n", "namespace: m", set()),
        ("build_file: build.py", "build_file: {path: build.py, alias: x}", set()),
        ("x: [1, 2]", "x: [2, 1]", set()),
        ("x: [1, 2]", "x: ['1', 2]", {"s1"}),
        ("name: one", "name: uno", set()),
    ],
)  # fmt: skip
def test_a_hash_is_of_what_a_job_can_see_and_of_nothing_else(
    old: str, new: str, changed: set[str], study: Path, spool: Spool
) -> None:
    before = stage(spec_of(study), spool)
    assert STUDY.count(old) == 1
    after = stage(spec_of(study, STUDY.replace(old, new)), spool)
    assert differing(before, after) == changed


def differing(before: StagedBatch, after: StagedBatch) -> set[str]:
    renamed = {"uno": "one"}
    hashes = {job.name: job.input_hash for job in before.jobs}
    return {job.name for job in after.jobs if hashes[renamed.get(job.name, job.name)] != job.input_hash}


def test_whether_an_input_can_be_executed_counts(study: Path, spool: Spool) -> None:
    before = stage(spec_of(study), spool)
    (study / "one.json").chmod(0o755)
    assert differing(before, stage(spec_of(study), spool)) == {"one"}


def test_hashes_are_the_same_on_every_machine_and_in_every_version(study: Path, spool: Spool) -> None:
    """Jobs that are done are kept by it: a version that counts otherwise would run everything again."""
    staged = stage(spec_of(study), spool)
    assert staged.build_hash[:16] == "3e53e262b804b7e2"
    assert [job.input_hash[:16] for job in staged.jobs] == [
        "40d4b840a16d56d7",
        "6f0ed896a8b6332a",
        "8509482a4f75cfc9",
        "b63502078ee48c7c",
    ]


def test_each_path_is_read_once_however_many_jobs_use_it(
    study: Path, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []

    def noting(add: Callable[[Spool, Path, Tick | None], Blob]) -> Callable[[Spool, Path, Tick | None], Blob]:
        def noted(self: Spool, path: Path, tick: Tick | None) -> Blob:
            read.append(path)
            return add(self, path, tick)

        return noted

    monkeypatch.setattr(Spool, "add_file", noting(Spool.add_file))
    monkeypatch.setattr(Spool, "add_tree", noting(Spool.add_tree))
    stage(spec_of(study), spool)
    assert sorted(path.name for path in read) == sorted(
        ["build.py", "common.dat", "folder", "run.py", "one.json", "two.json"]
    )


def note(told: list[tuple[int, int]], done: int, total: int) -> None:
    told.append((done, total))


def test_progress_grows_to_its_end(study: Path, spool: Spool) -> None:
    (study / "run.py").write_bytes(b"x" * 5_000_000)
    for _ in range(2):  # the second time all of it is known
        told: list[tuple[int, int]] = []
        stage(spec_of(study), spool, partial(note, told))
        assert told == sorted(told)
        assert told[-1][0] == told[-1][1] > 5_000_000
        assert len({total for _, total in told}) == 1
        assert any(0 < done < total for done, total in told)


def test_a_file_that_vanished_since_it_was_checked_stages_nothing(study: Path, spool: Spool) -> None:
    spec = spec_of(study)
    (study / "two.json").unlink()
    with pytest.raises(UsageError, match=r"two\.json' cannot be read: No such file"):
        stage(spec, spool, lambda done, total: None)
    assert content(spool) == []


def test_a_staged_batch_knows_what_its_spec_said(study: Path, spool: Spool) -> None:
    spec = spec_of(study)
    staged = stage(spec, spool)
    assert staged.env == {"A": "1"}
    assert [job.name for job in staged.jobs] == [job.name for job in spec.jobs]
    assert stage(replace(spec, jobs=()), spool).build_hash == staged.build_hash
