"""The jobs file: everything it may say, everything that is refused, and how that is told."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distribute_ssh.errors import FileError, UsageError
from distribute_ssh.model import names
from distribute_ssh.model.fileref import FileRef
from distribute_ssh.model.job import OnNodeLoss
from distribute_ssh.model.jobsfile import BatchSpec, JobSpec, Slurm, parse, read, reference

FIXTURES = Path(__file__).parent.parent / "fixtures" / "jobs"
STUDY = FIXTURES / "valid" / "study"
DOCS = Path(__file__).parent.parent.parent / "docs" / "jobs-file.md"

META = "meta: {batch_name: b, namespace: n, capabilities: []}\n"
PYTHON = "python: {initialize: {build_file: build.py}, jobs: [{name: a, file: run.py}]}\n"


def checked(text: str) -> BatchSpec:
    return parse(text, Path("/study/jobs.yaml"), check_files=False)


def problems(text: str, path: Path = Path("/study/jobs.yaml"), *, check_files: bool = False) -> list[str]:
    with pytest.raises(FileError) as caught:
        parse(text, path, check_files=check_files)
    return [str(problem).removeprefix(f"{path}:") for problem in caught.value.problems]


def jobs(entries: str) -> tuple[JobSpec, ...]:
    return checked(f"{META}python:\n  initialize: {{build_file: build.py}}\n  jobs:\n{entries}").jobs


# --------------------------------------------------------------------------------------------------- what is accepted


def test_the_long_form_is_read() -> None:
    spec = read(STUDY / "long.yaml")
    assert (spec.name, spec.kind, spec.matrix) == ("lab/long_forms", "python", "@me:example.org:8448")
    assert spec.capabilities == ("gfortran", "python3")
    assert spec.script == FileRef(STUDY / "build.py", "build.py")
    assert spec.required_files == (FileRef(STUDY / "config.json", "base.json"),)
    assert [job.name for job in spec.jobs] == ["first", "second"]
    assert spec.jobs[0].file == FileRef(STUDY / "run.py", "run.py")
    assert spec.jobs[0].required_files == ()
    assert spec.jobs[1].required_files == spec.required_files
    assert spec.source == (STUDY / "long.yaml").read_text()
    assert spec.folder == STUDY
    assert spec.slurm is None
    assert spec.required_mounts == ()
    assert spec.warnings == ()


def test_the_short_form_the_pair_and_folders_are_read() -> None:
    spec = read(STUDY / "short.yaml")
    assert spec.script == FileRef(STUDY / "build.py", "build.py")
    assert spec.required_files == (
        FileRef(STUDY / "config.json", "config.json"),
        FileRef(STUDY / "mesh", "mesh", is_dir=True),
        FileRef(STUDY / "config.json", "pair.json"),
        FileRef(STUDY / ".." / "shared.dat", "shared.dat"),
    )
    assert ".." in spec.required_files[3].path.parts


def test_a_file_written_by_a_program_with_every_null_is_read() -> None:
    spec = read(STUDY / "nulls.yaml")
    assert (spec.matrix, spec.slurm, spec.required_files) == (None, None, ())
    assert spec.jobs[0].env == {}
    assert spec.jobs[0].time_limit is None
    assert spec.jobs[0].required_files[0].alias == "config.json"


def test_an_apptainer_batch_is_read() -> None:
    spec = read(STUDY / "apptainer.yaml")
    assert spec.kind == "apptainer"
    assert spec.script == FileRef(STUDY / "image.sif", "image.sif")
    assert spec.required_mounts == ("/solver/scratch/", "/tmp/work")
    assert [job.file for job in spec.jobs] == [None, None]
    assert spec.jobs[1].required_files == (FileRef(STUDY / "config.json", "config.json"),)


def test_slurm_keeps_texts_as_written_and_the_levels_apart() -> None:
    spec = read(STUDY / "apptainer.yaml")
    assert spec.slurm == Slurm(
        job_name="010",
        output="no",
        nodes=1,
        ntasks=4,
        cpus_per_task=None,
        mem_per_cpu="10M",
        hint="nomultithread",
        time="90:00",
        partition="short",
        account="1e3",
        mail_user="me@example.org",
        mail_type="END",
    )
    assert [job.slurm for job in spec.jobs] == [Slurm(time="10:00:00", cpus_per_task=2), Slurm()]


def test_singularity_is_apptainer_with_a_warning() -> None:
    spec = read(STUDY / "singularity.yaml")
    assert spec.kind == "apptainer"
    assert spec.warnings == (
        f"{STUDY / 'singularity.yaml'}:2:1: singularity: is the old name of `apptainer`, and read as that",
    )


def test_no_text_is_taken_for_anything_else() -> None:
    spec = read(STUDY / "scalars.yaml")
    assert spec.name == "no/2023-01-01"
    assert spec.capabilities == ("0x1F", "1.0", "yes")
    assert [job.name for job in spec.jobs] == ["001", "1.10", "true"]
    assert spec.env == {
        "A": "010",
        "B": "1_000",
        "C": "1e3",
        "D": ".inf",
        "E": "true",
        "F": "null",
        "G": "",
        "H": "two\nlines",
        "I": "10:00:00",
    }


def test_what_meta_says_holds_for_every_job_that_does_not_say_otherwise() -> None:
    spec = read(STUDY / "options.yaml")
    as_batch, own, nulls = spec.jobs
    assert dict(as_batch.env) == {"THREADS": "4", "CASE": "base"}
    assert (as_batch.time_limit, as_batch.max_attempts, as_batch.on_node_loss) == (5400.0, 2, OnNodeLoss.WAIT)
    assert dict(own.env) == {"THREADS": "16", "CASE": "base", "MORE": "x"}
    assert (own.time_limit, own.max_attempts, own.on_node_loss) == (90.0, 100, OnNodeLoss.RESCHEDULE)
    assert (nulls.env, nulls.time_limit, nulls.max_attempts) == (as_batch.env, 5400.0, 2)
    assert spec.env == {"THREADS": "4", "CASE": "base"}


def test_without_options_a_job_is_tried_once_and_started_elsewhere_when_its_node_is_lost() -> None:
    (job,) = checked(META + PYTHON).jobs
    assert (job.env, job.time_limit, job.max_attempts, job.on_node_loss) == ({}, None, 1, OnNodeLoss.RESCHEDULE)
    assert job.sweep is None


def test_a_job_is_warned_as_it_or_its_batch_says_and_knows_so_where_it_has_a_time_limit() -> None:
    text = META.replace("capabilities: []", "capabilities: [], warn_signal: USR1")
    text += "python:\n  initialize: {build_file: build.py}\n  jobs:\n"
    text += "    - {name: a, file: run.py, time_limit: 1h}\n"
    text += "    - {name: b, file: run.py, time_limit: 1h, warn_signal: TERM}\n"
    text += "    - {name: c, file: run.py}\n"
    assert [dict(job.env) for job in checked(text).jobs] == [
        {"DISTRIBUTE_WARN_SIGNAL": "USR1"}, {"DISTRIBUTE_WARN_SIGNAL": "TERM"}, {},
    ]  # fmt: skip
    (unknown,) = problems(META + PYTHON.replace("name: a", "name: a, time_limit: 1h, warn_signal: KILL"))
    assert "must be one of USR1, USR2, HUP, INT, TERM, not 'KILL'" in unknown
    (useless,) = problems(META + PYTHON.replace("name: a", "name: a, warn_signal: USR1"))
    assert "there is no `time_limit` that it could warn of" in useless


def test_a_sweep_becomes_its_jobs() -> None:
    spec = read(STUDY / "sweep.yaml")
    assert [job.name for job in spec.jobs] == [
        *("re_100_m_coarse", "re_100_m_64", "re_100_m_true", "re_1e3_m_coarse", "re_1e3_m_64", "re_1e3_m_true"),
        *("zip_0.1", "zip_0.01", "alone"),
    ]
    job = spec.jobs[4]
    assert job.sweep == {"re": 1000.0, "mesh": "64"}
    assert dict(job.env) == {
        "LABEL": "Re=1e3 {literal}",
        "DISTRIBUTE_PARAM_RE": "1e3",
        "DISTRIBUTE_PARAM_MESH": "64",
    }
    assert [ref.alias for ref in job.required_files] == ["c_1e3.json", "mesh"]
    assert spec.jobs[7].sweep == {"dt": 0.01, "steps": 100}
    assert (spec.jobs[8].sweep, dict(spec.jobs[8].env)) == (None, {})


def test_braces_mean_nothing_without_a_sweep() -> None:
    (job,) = jobs("    - {name: a, file: run.py, env: {J: '{x}'}, required_files: [{path: c, alias: '{c}{'}]}\n")
    assert dict(job.env) == {"J": "{x}"}
    assert job.required_files[0].alias == "{c}{"


def test_what_meta_says_is_not_filled_in_by_a_sweep() -> None:
    text = META.replace("[]", "[], env: {J: '{a}'}")
    text += "python: {initialize: {build_file: b}, jobs: [{name: 'x{a}', file: run.py, sweep: {a: [1]}}]}"
    assert checked(text).jobs[0].env == {"J": "{a}", "DISTRIBUTE_PARAM_A": "1"}


def test_anchors_and_aliases_share_lists() -> None:
    spec = read(STUDY / "anchors.yaml")
    assert spec.required_files == spec.jobs[0].required_files == spec.jobs[1].required_files
    assert len(spec.required_files) == 2


def test_a_files_own_name_may_be_anything_a_file_system_takes() -> None:
    odd = ["with space", "quo'te", 'dou"ble', "line\nbreak", "-rf", "semi;colon", "$(id)", "a\\b", "~", "*", "ü"]
    odd += ["\x1b[31m", "é" * 127]
    listed = ", ".join('"' + "".join(f"\\U{ord(c):08x}" for c in name) + '"' for name in odd)
    (job,) = jobs(f"    - {{name: a, file: run.py, required_files: [{listed}]}}\n")
    assert [ref.alias for ref in job.required_files] == odd


def test_relative_paths_start_from_the_folder_of_the_file_however_it_was_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("build.py", "run.py"):
        (tmp_path / "sub" / name).touch()
    (tmp_path / "sub" / "jobs.yaml").write_text(META + PYTHON)
    monkeypatch.chdir(tmp_path)
    spec = read(Path("sub/jobs.yaml"))
    assert spec.script.path == tmp_path / "sub" / "build.py"
    assert spec.script.path.is_absolute()
    monkeypatch.chdir("/")
    assert spec.script.path.exists()


def test_absolute_paths_stay_and_links_are_not_resolved(tmp_path: Path) -> None:
    (tmp_path / "real.py").touch()
    (tmp_path / "link.py").symlink_to("real.py")
    text = META + f"python: {{initialize: {{build_file: {tmp_path}/link.py}}, jobs: [{{name: a, file: link.py}}]}}"
    spec = parse(text, tmp_path / "jobs.yaml")
    assert spec.script == FileRef(tmp_path / "link.py", "link.py")


# ---------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("path", sorted((FIXTURES / "invalid").iterdir()), ids=lambda path: path.stem)
def test_every_mistake_of_a_file_is_told_with_place_key_and_remedy(path: Path) -> None:
    """Each of these files ends with the messages it must get, one comment a line, and no others."""
    text = path.read_text()
    expected = [line.removeprefix("# ") for line in text.splitlines() if line.startswith("# ")]
    found = [message.replace(str(path.parent), "HERE") for message in problems(text, path)]
    assert found == expected
    assert expected


def test_files_that_are_missing_are_all_named_with_the_nearest_name_there_is(tmp_path: Path) -> None:
    (tmp_path / "build.py").touch()
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    text = META + (
        "python:\n  initialize:\n    build_file: biuld.py\n    required_files: [~/x, no/such, pipe, build.py/z]\n"
        "  jobs:\n    - {name: a, file: folder}\n"
        "    - {name: 'a{k}', file: 'run_{k}.py', sweep: {k: [1]}}\n"
    )
    here = tmp_path / "jobs.yaml"
    found = [message.replace(str(tmp_path), "HERE") for message in problems(text, here, check_files=True)]
    no_paths = "a sweep fills names, env and aliases, but no paths; list the files themselves"
    at = "python.initialize"
    assert found == [
        f"4:17: {at}.build_file: there is no file 'HERE/biuld.py'; did you mean 'build.py'?",
        f"5:22: {at}.required_files[0]: there is no file 'HERE/~/x'; `~` stands for nothing here; write the whole path",
        f"5:27: {at}.required_files[1]: there is no file 'HERE/no/such'",
        f"5:36: {at}.required_files[2]: 'HERE/pipe' is neither a file nor a folder",
        f"5:42: {at}.required_files[3]: there is no file 'HERE/build.py/z'",
        "7:23: python.jobs[0].file: 'HERE/folder' is a folder; name a file",
        f"8:28: python.jobs[1].file: there is no file 'HERE/run_{{k}}.py'; {no_paths}",
    ]


def test_a_file_that_may_not_be_read_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("build.py", "run.py"):
        (tmp_path / name).touch()
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "run.py")  # root may read everything
    (message,) = problems(META + PYTHON, tmp_path / "jobs.yaml", check_files=True)
    assert message.endswith(f"python.jobs[0].file: '{tmp_path}/run.py' cannot be read: Permission denied")


def test_a_path_longer_than_any_is_a_problem_and_no_crash() -> None:
    text = META + f"python: {{initialize: {{build_file: {'x' * 5000}}}, jobs: [{{name: a, file: /dev/null/x}}]}}"
    found = problems(text, check_files=True)
    assert any("cannot be read: File name too long" in message for message in found)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (PYTHON.replace("build.py", "."), "python.initialize.build_file"),
        (PYTHON.replace("run.py", "mesh"), "python.jobs[0].file"),
        ("apptainer: {initialize: {sif: mesh}, jobs: [{name: a}]}", "apptainer.initialize.sif"),
    ],
)
def test_a_folder_is_no_script_and_no_image(text: str, key: str) -> None:
    (message,) = problems(META + text, STUDY / "jobs.yaml", check_files=True)
    assert f": {key}: " in message
    assert message.endswith(" is a folder; name a file")


@pytest.mark.parametrize("matrix", ["@a:b.org", "@a.b/c=d:[::1]", "@a:1.2.3.4:8448", "@a:localhost"])
def test_matrix_ids_are_accepted(matrix: str) -> None:
    assert checked(META.replace("[]", f'[], matrix: "{matrix}"') + PYTHON).matrix == matrix


LONG_ID = "@" + "a" * 250 + ":b.org"


@pytest.mark.parametrize(
    "matrix",
    ["me", "@me", "me:x.org", "@:x.org", "@me:", "@a b:x.org", "@a:x.org:", "@a:x org", "@a:b.org\\n", LONG_ID],
)
def test_what_is_no_matrix_id_is_refused(matrix: str) -> None:
    (message,) = problems(META.replace("[]", f'[], matrix: "{matrix}"') + PYTHON)
    assert message.startswith("1:63: meta.matrix: ")
    assert "is no Matrix user id" in message


def test_a_name_taken_by_another_entry_is_told_even_if_that_one_is_wrong_too() -> None:
    text = META + "python:\n  initialize: {build_file: b}\n  jobs:\n    - {name: a, fil: x}\n    - {name: A, file: x}\n"
    assert [message.split(": ")[1] for message in problems(text)] == ["python.jobs[0].fil", "python.jobs[1].name"]


def test_names_of_our_own_files_in_the_batch_folder_are_taken() -> None:
    for name in ("batch.yaml", "BATCH.JSON", "b_build_output-lab1.txt", "x@attempt-1"):
        (message,) = problems(META + PYTHON.replace("name: a", f"name: {name}"))
        assert "is a name of ours in the batch's folder" in message


def test_a_batch_has_at_most_a_hundred_thousand_jobs() -> None:
    values = ", ".join(map(str, range(1000)))
    sweep = f"    - {{name: '{{a}}-{{b}}', file: run.py, sweep: {{a: [{values}], b: [{values}]}}}}\n"
    with pytest.raises(FileError, match="stands for 1,000,000 jobs; a batch has at most 100,000"):
        jobs(sweep)
    hundred = ", ".join(map(str, range(100)))
    half = f"file: run.py, sweep: {{a: [{values}], b: [{hundred}]}}}}\n"
    two = f"    - {{name: 'x{{a}}-{{b}}', {half}    - {{name: y, file: run.py}}\n"
    with pytest.raises(FileError, match=r"jobs\[1\]: is beyond the 100,000 jobs a batch can have"):
        jobs(two)


@settings(deadline=None)
@given(st.text(max_size=120))
def test_a_name_that_is_accepted_is_one_harmless_path_component(text: str) -> None:
    if names.check_name(text) is None:
        assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._+=@,-]{0,99}", text, re.ASCII)
        assert ".." not in text
        assert names.key(text) == text.lower()


@pytest.mark.parametrize("name", ["a", "_x", "9", "a.b", "re=100,m=2@x+y-z_", "a" * 100])
def test_good_names_are_accepted(name: str) -> None:
    assert names.check_name(name) is None


BAD_NAMES = ["", ".", "..", ".a", "-rf", "=a", "a/b", "a\\b", "a b", "a\n", "\na", "a..b", "a\x00", "~", "a*"]
BAD_NAMES += ["²", "ａ", "é", "a" * 101]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_bad_names_are_refused_in_one_printable_sentence(name: str) -> None:
    wrong = names.check_name(name)
    assert wrong is not None
    assert wrong.isprintable()


@settings(deadline=None)
@given(st.text(max_size=300))
def test_an_alias_that_is_accepted_is_one_path_component(text: str) -> None:
    if names.check_alias(text) is None:
        assert text not in ("", ".", "..")
        assert not {"/", "\0"} & set(text)
        assert len(text.encode()) <= 255
        assert os.path.basename(os.path.normpath(os.path.join("/folder", text))) == text


@pytest.mark.parametrize("alias", ["", ".", "..", "a/b", "/a", "a/", "a\0", "é" * 128])
def test_bad_aliases_are_refused(alias: str) -> None:
    assert names.check_alias(alias) is not None


# -------------------------------------------------------------------------------------------------- reading the file


def test_a_file_that_is_not_there_leads_to_the_template(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no jobs file") as caught:
        read(tmp_path / "none.yaml")
    assert "distribute template python" in str(caught.value)


def test_a_folder_is_no_jobs_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a folder"):
        read(tmp_path)


def test_a_file_too_large_is_refused_without_reading_all_of_it(tmp_path: Path) -> None:
    path = tmp_path / "jobs.yaml"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(FileError, match="larger than 8 MiB"):
        read(path)


def test_the_source_is_kept_without_a_byte_order_mark() -> None:
    spec = parse(b"\xef\xbb\xbf" + (META + PYTHON).encode(), Path("/x/jobs.yaml"), check_files=False)
    assert spec.source == META + PYTHON


@pytest.mark.parametrize("rest", ["python: {jobs: []}\n", "", "nonsense: [1\n  , 2]\n", "python: 3\napptainer: 4\n"])
def test_a_file_can_stand_for_its_batch_whatever_else_is_in_it(rest: str, tmp_path: Path) -> None:
    path = tmp_path / "jobs.yaml"
    path.write_text("meta: {batch_name: b, namespace: n, typo: 3}\n" + rest)
    assert reference(path) == ("n", "b")


NO_NAMESPACE = "meta: lacks the key `namespace`; add `namespace:`"
NO_BATCH = "meta: lacks the key `batch_name`; add `batch_name:`"
SLASH = "meta.namespace: a name is made of letters, digits and ._-+=@, only, without '/'"
NULL = 'meta.batch_name: has no value; quote it if you mean the text: "~"'


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        ("{}", [f"1:1: {NO_NAMESPACE}", f"1:1: {NO_BATCH}"]),
        ("meta: {namespace: n}", [f"1:7: {NO_BATCH}"]),
        ("meta: {namespace: ../x, batch_name: ~}", [f"1:19: {SLASH}", f"1:37: {NULL}"]),
    ],
)
def test_a_file_that_names_no_batch_cannot_stand_for_one(text: str, messages: list[str], tmp_path: Path) -> None:
    path = tmp_path / "jobs.yaml"
    path.write_text(text)
    with pytest.raises(FileError) as caught:
        reference(path)
    assert [str(problem).removeprefix(f"{path}:") for problem in caught.value.problems] == messages


# --------------------------------------------------------------------------------------------------- the manual


def blocks() -> list[str]:
    return re.findall(r"^```yaml\n(.*?)^```$", DOCS.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("block", blocks())
def test_every_example_of_the_manual_is_valid(block: str) -> None:
    """What an example leaves out, because it is not about it, is added: `meta`, or what to run."""
    text = block if "meta:" in block else META + block
    spec = checked(text if re.search("^(python|apptainer):", text, re.MULTILINE) else text + PYTHON)
    assert spec.jobs
    assert not spec.warnings


def test_the_manual_has_every_key() -> None:
    manual = DOCS.read_text()
    keys = [
        *("meta", "python", "apptainer", "slurm", "singularity", "batch_name", "namespace", "capabilities", "matrix"),
        *("initialize.build_file", "initialize.sif", "initialize.required_files", "initialize.required_mounts"),
        *("jobs[].name", "jobs[].file", "jobs[].required_files", "jobs[].sweep", "jobs[].zip", "jobs[].slurm"),
        *("env", "time_limit", "warn_signal", "max_attempts", "on_node_loss", *Slurm.__dataclass_fields__),
    ]
    assert [key for key in keys if f"`{key}`" not in manual] == []


def test_the_manual_shows_messages_as_they_are() -> None:
    shown = re.findall(r"^```text\n(.*?)^```$", DOCS.read_text(), re.MULTILINE | re.DOTALL)[0]
    assert "is not a key known here; did you mean `required_files`?" in shown
    assert re.search(r"python\.jobs\[0\]\.file: there is no file '.*'; did you mean 'run\.py'\?", shown)


@pytest.mark.parametrize(
    ("written", "read"), [("mail", ("mail",)), ("[mail, chat, mail]", ("mail", "chat")), ("~", ()), ("[]", ())]
)
def test_channels_to_be_told_are_names_one_or_a_list(written: str, read: tuple[str, ...]) -> None:
    assert checked(META.replace("[]", f"[], notify: {written}") + PYTHON).notify == read


@pytest.mark.parametrize("written", ["mailto://ana:secret@lab.org", "'@ana:lab.org'", "[slack://secret]"])
def test_a_url_in_a_jobs_file_is_refused_without_showing_it_again(written: str) -> None:
    (message,) = problems(META.replace("[]", f"[], notify: {written}") + PYTHON)
    assert "is no name of a channel" in message
    assert "secret" not in message
