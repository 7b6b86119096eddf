"""The same batch again is an ordinary act: what is done and unchanged is kept, and nothing is ever written over."""

from __future__ import annotations

import pytest

from tests.endtoend.site import Site

pytestmark = pytest.mark.sshd

RUN = "note('run ' + JOB)\nsave('result', os.environ['VALUE'].encode())\n"


def jobs(**values: str) -> dict[str, dict[str, dict[str, str]]]:
    return {name: {"env": {"VALUE": value}} for name, value in values.items()}


def result(site: Site, job: str, batch: str = "b") -> str:
    return (site.results(job, batch) / "result").read_text()


def test_a_batch_submitted_again_runs_only_what_is_new_or_changed_and_old_results_are_kept_beside(site: Site) -> None:
    room = site.local()
    path = site.batch(jobs(a="1", b="1", c="1"), run=RUN)
    site.do("run", path)
    assert sorted(site.notes("run")) == ["a", "b", "c"]
    kept = (site.results("a") / "job.json").read_bytes()

    assert site.data("run", path)["submitted"]["kept"] == 3
    assert len(site.notes("run")) == 3
    site.batch(jobs(a="1", b="2", d="1"), run=RUN)
    told = site.data("run", path)["submitted"]
    assert {key: told[key] for key in ("kept", "again", "new", "dropped")} == {
        "kept": 1, "again": 1, "new": 1, "dropped": 1,
    }  # fmt: skip
    assert sorted(site.notes("run")[3:]) == ["b", "d"]
    assert (site.results("a") / "job.json").read_bytes() == kept
    assert (result(site, "b"), site.record("b")["attempt"]) == ("2", 2)
    assert (result(site, "b@attempt-1"), site.record("b@attempt-1")["attempt"]) == ("1", 1)
    assert (result(site, "c"), result(site, "d")) == ("1", "1")

    before = {path: path.stat().st_mtime_ns for path in site.results("a").rglob("*")}
    told = site.data("run", "--fresh", path)["submitted"]
    assert sorted(site.notes("run")[5:]) == ["a", "b", "d"]
    old = told["moved_to"].removeprefix("ns/")
    assert old.startswith("b@")
    assert (result(site, "b", old), result(site, "b@attempt-1", old), result(site, "c", old)) == ("2", "1", "1")
    assert {path.stat().st_mtime_ns for path in site.results("a", old).rglob("*")} == set(before.values())
    assert {each.name for each in site.results().iterdir() if each.is_dir()} == {"a", "b", "d"}
    assert not site.half_written()
    site.assert_clean(room)


def test_a_batch_that_works_is_not_touched_without_replace_which_kills_what_changed_and_lets_the_rest_run(
    site: Site,
) -> None:
    room = site.node("lab1", slots=2).room
    run = "note('begin %s %s' % (JOB, os.environ['VALUE']))\ngate(JOB + os.environ['VALUE'])\n" + RUN
    path = site.batch(jobs(same="1", other="1"), run=run)
    first = site.start("run", path)
    site.wait(lambda: len(site.notes("begin")) == 2, "both run")
    site.batch(jobs(same="1", other="2"), run=run)
    assert "still working" in site.do("add", path, code=2).said()
    assert site.states() == {"same": "running", "other": "running"}

    site.do("add", "--replace", path)
    site.wait(lambda: "other 2" in site.notes("begin"), "the changed one runs anew")
    site.open("same1", "other2")
    assert first.end() == 0, first.said()
    assert sorted(site.notes("begin")) == ["other 1", "other 2", "same 1"]
    assert (result(site, "same"), result(site, "other")) == ("1", "2")
    assert sorted(site.notes("run")) == ["other", "same"]
    site.assert_clean(room)


def test_other_inputs_of_the_build_build_again_and_run_all_of_it(site: Site) -> None:
    room = site.node("lab1").room
    build = "note('build %s')\nprint('version %s')\nopen('built', 'w').write('%s')\n"
    run = "note('run ' + open('built').read())\n"
    site.do("run", site.batch(["a"], build=build.replace("%s", "1"), run=run))
    site.do("run", site.batch(["a"], build=build.replace("%s", "2"), run=run))
    assert site.notes() == ["build 1", "run 1", "build 2", "run 2"]
    logs = {log.name: log.read_text() for log in site.results().glob("*build_output*")}
    assert logs == {"b_build_output-lab1.txt": "version 2\n", "b_build_output-lab1@1.txt": "version 1\n"}
    site.assert_clean(room)
