"""A cluster as a node: what Slurm says is read, weighed beside the folders, and answered."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import asdict, fields, replace
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from distribute_ssh.coordination.departed import entry_of
from distribute_ssh.errors import FileError
from distribute_ssh.model import inventory
from distribute_ssh.model.cluster import Cluster, block, kept
from distribute_ssh.model.inventory import NodeEntry
from distribute_ssh.model.job import Attempt, AttemptState, Job, NodeState, OnNodeLoss, State
from distribute_ssh.model.resources import Resources
from distribute_ssh.model.slurm import Slurm, directives
from distribute_ssh.node import probe
from distribute_ssh.node.slurm import (
    HOPELESS,
    Seen,
    build_wishes,
    complaint,
    cores_of,
    gpus_of,
    is_passing,
    read_rows,
    weigh,
    wishes,
)
from distribute_ssh.plan import reconcile
from distribute_ssh.plan.eligible import Code, refusal
from distribute_ssh.plan.reconcile import Sighting, Verdict
from distribute_ssh.plan.snapshot import NodeView, WorkView
from distribute_ssh.store.rows import NodeRow

FIXTURES = Path(__file__).parents[1] / "fixtures" / "slurm"
QUEUE = "0a1b2c3d"
ARRAY = f"{QUEUE}-0123456789abcdef"
TOKEN = f"{QUEUE}-00000000000000aa"
SHELLS = [shell for shell in (["dash"], ["bash", "--posix"], ["busybox", "sh"]) if shutil.which(shell[0])]


def token(word: str) -> str:
    """An attempt of our queue."""
    return f"{QUEUE}-{word:0>16}"


# --- what the shell script asks and tells ---


class Login:
    """Our folder on a login machine, where Slurm's commands are pretended."""

    def __init__(self, folder: Path, shell: list[str]) -> None:
        self.folder = folder
        self.shell = shell
        self.bin = folder / "bin"
        for each in (self.bin, folder / "attempts", folder / "lib-x"):
            each.mkdir()
        for name in ("slurm.sh",):
            (folder / "lib-x" / name).write_text((resources.files("distribute_ssh.node") / name).read_text())
        self.pretend("squeue", f"exec cat {folder}/squeue")
        self.pretend("sbatch", f'cat > {folder}/submitted; echo "$*" > {folder}/options; echo 31')
        self.pretend("scancel", f'echo "$*" >> {folder}/cancelled; : > {folder}/squeue')
        (folder / "squeue").write_text((FIXTURES / "squeue.txt").read_text())

    def pretend(self, name: str, command: str) -> None:
        """Put a command of Slurm's before all others."""
        (self.bin / name).write_text(f"#!/bin/sh\n{command}\n")
        (self.bin / name).chmod(0o755)

    def attempt(self, name: str, member: str | None = None, number: str | None = None, script: str = "") -> Path:
        """Make the folder of an attempt, which is a member of a Slurm job."""
        folder = self.folder / "attempts" / name
        folder.mkdir()
        (folder / "run.sh").write_text(script or "#SBATCH --no-requeue\nslot=x\n")
        for file, text in (("member", member), ("submitted", number)):
            if text is not None:
                (folder / file).write_text(f"{text}\n")
        return folder

    def do(self, *words: str) -> list[str]:
        """What the script answers."""
        answers = self.folder / "answers"
        subprocess.run(
            ["sh", "-c", 'exec "$@" 3> "$0"', answers, *self.shell, "lib-x/slurm.sh", "7", "lib-x", *words],
            check=True, cwd=self.folder, timeout=60,
            env={"PATH": f"{self.bin}:/usr/bin:/bin", "DISTRIBUTE_NONCE": "N", "DISTRIBUTE_BOOT": "B"},
        )  # fmt: skip
        return [line.removeprefix("N ") for line in answers.read_text().splitlines()]


@pytest.fixture(params=SHELLS, ids=lambda shell: shell[0])
def login(request: pytest.FixtureRequest, tmp_path: Path) -> Login:
    """One for each shell that /bin/sh may be."""
    return Login(tmp_path, request.param)


def test_every_attempt_is_told_what_slurm_says_of_the_job_or_task_that_runs_it(login: Login) -> None:
    login.attempt(token("1"), f"{ARRAY} 1", "9")
    login.attempt(token("3"), f"{ARRAY} 3", "9")
    login.attempt(token("bb"), f"{token('bb')} 1", "5")
    login.attempt(token("new"), f"{token('new')} 1")
    login.attempt(token("gone"), f"{token('gone')} 1", "4")
    login.attempt(token("plain"))
    *rows, end = login.do("see", QUEUE)
    assert end == "done 7"
    assert sorted(rows) == sorted(
        [
            f"slurm 7 {token('1')} 9_1 RUNNING node2 None",
            f"slurm 7 {token('3')} 9_3 PENDING - Resources",
            f"slurm 7 {token('bb')} 5 PENDING - ReqNodeNotAvail, UnavailableNodes:node[2-3]",
            f"slurm 7 {token('new')} - NONE - -",
            f"slurm 7 {token('gone')} 4 NONE - -",
        ]
    )
    read = read_rows(tuple(row.split()[2:]) for row in rows)
    assert read[token("bb")] == Seen("5", "PENDING", "-", "ReqNodeNotAvail, UnavailableNodes:node[2-3]")


def test_what_slurm_has_forgotten_is_asked_of_its_accounting(login: Login) -> None:
    login.pretend("sacct", f"cat {FIXTURES}/sacct.txt")
    login.attempt(token("ff"), f"{token('ff')} 1", "21")
    login.attempt(token("2"), f"{token('111')} 2", "22")
    login.attempt(token("gone"), f"{token('gone')} 1", "4")
    assert sorted(login.do("see", QUEUE)[:-1]) == sorted(
        [
            f"slurm 7 {token('ff')} 21 CANCELLED node2 accounting",
            f"slurm 7 {token('2')} 22_2 OUT_OF_MEMORY node3 accounting",
            f"slurm 7 {token('gone')} 4 NONE - -",
        ]
    )


def test_a_controller_that_does_not_answer_is_not_taken_for_one_that_knows_nothing(login: Login) -> None:
    login.pretend("squeue", "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1")
    login.attempt(TOKEN, f"{TOKEN} 1")
    assert login.do("see", QUEUE) == ["fail 7 silent"]
    assert login.do("submit", TOKEN) == ["fail 7 silent"], "it may be there: nothing is submitted unseen"
    assert not (login.folder / "submitted").exists()


def test_trouble_that_squeue_prints_and_ends_well_is_no_list_without_our_jobs(login: Login) -> None:
    login.attempt(TOKEN, f"{TOKEN} 1", "5")
    (login.folder / "squeue").write_text("the cache of squeue is being made\n| please | wait |\n")
    assert login.do("see", QUEUE) == ["fail 7 silent"]
    (login.folder / "squeue").write_text(f"a word before\n{TOKEN}|N/A|5|RUNNING|node1|None\n")
    assert login.do("see", QUEUE) == [f"slurm 7 {TOKEN} 5 RUNNING node1 None", "done 7"]


def test_several_become_one_array_of_which_each_task_knows_its_attempt(login: Login) -> None:
    script = '#SBATCH --no-requeue\n#SBATCH --time="0:10"\n#WARN 5 USR1\nslot=x\n#SBATCH --not=this\n'
    for name in ("1", "2"):
        login.attempt(token(name), script=script)
    assert login.do("submit", token("1"), token("2")) == ["done 7 31"]
    options = (login.folder / "options").read_text()
    assert "--no-requeue" in options
    assert "--array=1-2" in options
    assert f"--job-name={token('1')} " in options
    submitted = (login.folder / "submitted").read_text()
    assert '#SBATCH --no-requeue\n#SBATCH --time="0:10"\nset -- ' in submitted
    # What the second task would run, were it not for the last word.
    shown = subprocess.run(
        [*login.shell, "-c", submitted.replace("exec /bin/sh", "echo")],
        check=True, capture_output=True, text=True, env={"PATH": "/bin", "SLURM_ARRAY_TASK_ID": "2"},
    )  # fmt: skip
    assert shown.stdout.split() == ["lib-x/batch.sh", token("2"), "lib-x"]
    assert (login.folder / "attempts" / token("2") / "member").read_text() == f"{token('1')} 2\n"
    assert (login.folder / "attempts" / token("2") / "submitted").read_text() == "31\n"


def test_what_slurm_has_by_name_or_somebody_began_is_not_submitted_again(login: Login) -> None:
    folder = login.attempt(token("1"), f"{ARRAY} 1")  # nobody wrote its number down
    (login.attempt(token("2")) / "claim").mkdir()
    assert login.do("submit", token("1"), token("2")) == ["done 7"]
    assert (folder / "submitted").read_text() == "9_1\n"
    login.attempt(token("new"), f"{token('new')} 1")  # killed before sbatch
    assert login.do("submit", token("1"), token("new")) == ["done 7 31"]
    assert f"set -- {token('new')}\n" in (login.folder / "submitted").read_text()
    assert "--array" not in (login.folder / "options").read_text()


def test_a_submission_of_which_only_the_answer_was_lost_counts(login: Login) -> None:
    login.attempt(TOKEN)
    line = f"{TOKEN}|N/A|40|PENDING||None"
    login.pretend("sbatch", f"cat > /dev/null; echo '{line}' >> {login.folder}/squeue; echo 'timed out' >&2; exit 1")
    (login.folder / "squeue").write_text("")
    assert login.do("submit", TOKEN) == ["done 7"]


def test_what_sbatch_complains_of_is_handed_on_and_an_attempt_can_be_refused_with_it(login: Login) -> None:
    said = "sbatch: error: invalid partition specified: nope"
    login.pretend("sbatch", f"cat > /dev/null; echo '{said}' >&2; exit 1")
    (login.folder / "squeue").write_text("")
    folder = login.attempt(TOKEN)
    assert login.do("submit", TOKEN) == [f"refusal 7 {TOKEN} {said} ", "fail 7 1"]
    assert login.do("refuse", "no\\0040partition\\n", TOKEN) == ["done 7"]
    assert (folder / "output").read_text() == "no partition\n"
    assert (folder / "exit.refused").is_dir()
    assert (folder / "claim").is_dir(), "nobody can begin it any more"


def test_an_end_is_asked_for_once_and_waited_for(login: Login) -> None:
    folders = [login.attempt(token(each), f"{ARRAY} {each}", "9") for each in ("1", "2", "3")]
    assert login.do("cancel", token("1"), token("2"), token("3")) == ["done 7"]
    assert sorted((login.folder / "cancelled").read_text().split()) == ["9_1", "9_3"]
    assert all((folder / "claim").is_dir() for folder in folders), "what waits in Slurm cannot begin any more"


def test_the_slot_of_what_may_go_on_out_of_sight_goes_away_with_it(login: Login) -> None:
    slot = login.folder / "batches" / "b" / "slot-1"
    (slot.parent / "pristine").mkdir(parents=True)
    slot.mkdir()
    folder = login.attempt(token("ee"), f"{token('ee')} 1", "15", script="slot=batches/b/slot-1\nsave=\n")
    assert login.do("cancel", token("ee")) == ["done 7"]
    assert not slot.exists()
    assert (folder / "slot").is_dir()


# --- what it means ---


def look(state: Any, exit_record: str | None = None) -> Sighting:
    return Sighting(TOKEN, state, exit_record)


def meant(
    sighting: Sighting | None, seen: Seen | None, over_for: float = 0.0, *, answers: bool = True
) -> Sighting | None:
    return weigh(sighting, seen, answers=answers, over_for=over_for, lag=5.0)


def test_what_waits_in_slurm_says_why_and_has_not_begun() -> None:
    found = meant(look("unstarted"), Seen("5", "PENDING", "-", "Priority"))
    assert found == Sighting(TOKEN, "unstarted", note="waits in Slurm: Priority")


@pytest.mark.parametrize("state", ["claimed", "gone", "running"])
def test_a_process_of_another_machine_is_not_gone_while_slurm_runs_it(state: str) -> None:
    assert meant(look(state), Seen("5", "RUNNING", "node2")) == Sighting(TOKEN, "running")
    assert meant(look(state), Seen("5", "COMPLETING", "node2")) == Sighting(TOKEN, "running")
    assert meant(look(state), Seen("5", "SUSPENDED", "node2")) == Sighting(TOKEN, "running", paused=True)


@pytest.mark.parametrize("state", ["claimed", "gone", "running"])
def test_silence_of_slurm_is_no_evidence(state: str) -> None:
    assert meant(look(state), None, answers=False) == Sighting(TOKEN, "running")
    assert meant(look("ended", "0"), None, answers=False) == look("ended", "0")


def test_a_record_may_be_seen_later_than_the_end_that_slurm_tells_of() -> None:
    over = Seen("5", "COMPLETED", "node2")
    assert meant(look("gone"), over, over_for=4.0) == Sighting(TOKEN, "running")
    found = meant(look("gone"), over, over_for=6.0)
    assert found == Sighting(TOKEN, "gone", note="Slurm ended it: COMPLETED on node2")


@pytest.mark.parametrize(
    ("state", "ending"), [("TIMEOUT", State.TIMEOUT), ("DEADLINE", State.TIMEOUT), ("CANCELLED", State.KILLED)]
)
def test_an_end_that_somebody_wanted_is_no_loss_with_a_record_and_without(state: str, ending: State) -> None:
    for folder in (look("gone"), look("unstarted"), look("ended", "143")):
        found = meant(folder, Seen("5", state, "node2"), over_for=9.0)
        assert found is not None
        assert found.ending is ending
        assert found.state != "gone"
    assert meant(look("ended", "0"), Seen("5", state), over_for=9.0) == look("ended", "0"), "it was done by then"


@pytest.mark.parametrize("state", ["NODE_FAIL", "PREEMPTED", "BOOT_FAIL"])
def test_what_a_failing_node_swept_away_is_lost_whatever_it_returned(state: str) -> None:
    for folder in (look("gone"), look("ended", "143")):
        found = meant(folder, Seen("5", state, "node2"), over_for=9.0)
        assert found == Sighting(TOKEN, "gone", note=f"Slurm ended it: {state} on node2")


def test_a_failure_is_told_when_slurm_has_said_why() -> None:
    assert meant(look("ended", "1"), Seen("5", "COMPLETING"), over_for=2.0) == Sighting(TOKEN, "running")
    assert meant(look("ended", "1"), Seen("5", "COMPLETING"), over_for=40.0) == look("ended", "1"), "but not for ever"
    assert meant(look("ended", "1"), Seen("5", "FAILED"), over_for=2.0) == look("ended", "1")
    assert meant(look("ended", "0"), Seen("5", "COMPLETING")) == look("ended", "0")


def test_a_node_that_does_not_see_our_folder_is_named() -> None:
    found = meant(look("unstarted"), Seen("5", "FAILED", "node2"), over_for=9.0)
    assert found is not None
    assert found.note == "node2 did not find it: is `scratch` a folder they share?"


def test_what_was_never_submitted_waits_for_that() -> None:
    assert meant(look("unstarted"), Seen("-", "NONE"), over_for=99.0) == look("unstarted")
    found = meant(look("unstarted"), Seen("4", "NONE"), over_for=99.0)
    assert found is not None
    assert found.state == "gone", "but what Slurm has forgotten will not come"


def test_a_list_without_a_job_is_believed_when_it_stays_so() -> None:
    for folder in (look("unstarted"), look("claimed"), look("gone")):
        early, late = (meant(folder, Seen("4", "NONE"), over_for=seconds) for seconds in (30.0, 70.0))
        assert early is not None
        assert late is not None
        assert (early.state == "gone", late.state) == (False, "gone")


def test_of_two_jobs_for_one_attempt_the_one_counts_that_slurm_still_has() -> None:
    rows = [(TOKEN, "4", "COMPLETED", "node2", "None"), (TOKEN, "5", "RUNNING", "node3", "None")]
    assert read_rows(rows) == read_rows(reversed(rows)) == {TOKEN: Seen("5", "RUNNING", "node3", "None")}


def job(**settings: Any) -> Job:
    """One that asks for this."""
    values: dict[str, Any] = {
        "id": 1, "batch_id": 1, "position": 0, "name": "a", "state": State.RUNNING, "input_hash": "x", "script": None,
        "inputs": (), "env": {}, "time_limit": None, "max_attempts": 1, "on_node_loss": OnNodeLoss.RESCHEDULE,
    }  # fmt: skip
    return Job(**values | settings)


def attempt(ending: State | None = None) -> Attempt:
    """One that runs on a cluster."""
    return Attempt(
        id=1, token=TOKEN, job_id=1, batch_id=1, batch_token=TOKEN, number=1, node="cluster", slot=0,
        state=AttemptState.RUNNING, boot_id=None, placed_at=0.0, ending=ending,
    )  # fmt: skip


def test_what_slurm_says_becomes_the_reason_of_the_job() -> None:
    lost = Sighting(TOKEN, "gone", note="Slurm ended it: NODE_FAIL on node2")
    found = reconcile.judge(AttemptState.RUNNING, "shared", lost, node_boot_id="shared", since=0.0, now=1.0)
    assert (found.verdict, found.reason) == (Verdict.LOST, "Slurm ended it: NODE_FAIL on node2")
    then = reconcile.after_end(job(), attempt(), "refused", "Invalid partition name specified", 1.0)
    assert (then.state, then.reason) == (State.FAILED, "Slurm refused it: Invalid partition name specified")
    then = reconcile.after_end(job(), attempt(State.KILLED), "143", None, 1.0)
    assert (then.state, then.reason) == (State.KILLED, "cancelled in Slurm, by somebody else than us")


def said() -> Iterator[tuple[str, str]]:
    """What `sbatch` was asked, and what it answered."""
    for block_of in (FIXTURES / "sbatch.txt").read_text().split("== ")[1:]:
        asked, _, answer = block_of.partition("\n")
        yield asked, answer


@pytest.mark.parametrize(("asked", "answer"), [*said()])
def test_only_what_passes_by_itself_is_tried_again(asked: str, answer: str) -> None:
    assert is_passing(answer) is asked.startswith("passing")
    assert "sbatch: error" not in complaint(answer)
    assert complaint(answer)


def test_only_reasons_that_no_time_mends_take_a_job_back() -> None:
    reasons = {line.rsplit("|", 1)[1] for line in (FIXTURES / "squeue.txt").read_text().splitlines()}
    assert reasons & HOPELESS == {"PartitionTimeLimit"}
    assert not HOPELESS & {"Resources", "Priority", "PartitionDown", "JobHeldUser", "QOSMaxJobsPerUserLimit"}


# --- what is asked for ---


def test_the_jobs_file_wins_over_the_inventory_key_by_key() -> None:
    cluster = Cluster(Slurm(partition="short", time="1:00:00", account="lab"))
    asked = wishes(cluster, 4, job(slurm={"partition": "long", "unknown": "of another version"}, time_limit=90.0))
    lines = directives(asked, without=("job_name", "output"))
    assert set(lines) == {
        "#SBATCH --partition=long", "#SBATCH --time=1:00:00", "#SBATCH --account=lab", "#SBATCH --cpus-per-task=4",
    }  # fmt: skip
    assert cores_of(asked) == 4


def test_time_limit_and_resources_stand_in_for_what_no_block_says() -> None:
    asked = wishes(Cluster(), 4, job(time_limit=90.0, resources=Resources(cores=2, memory_mb=512, gpus=1)))
    assert (asked.time, asked.cpus_per_task, asked.mem, asked.gres) == ("00:01:30", 2, "512M", "gpu:1")
    asked = wishes(Cluster(), None, job(slurm={"ntasks": 3, "cpus_per_task": 2}))
    assert cores_of(asked) == 6
    assert cores_of(wishes(Cluster(), None, job())) == 1


@pytest.mark.parametrize(
    ("asked", "number"),
    [
        (Slurm(), 0), (Slurm(gres="gpu"), 1), (Slurm(gres="gpu:a100:2"), 2), (Slurm(gres="nvme:1,gpu:4(IDX:0-3)"), 4),
        (Slurm(gres="nvme:1"), 0), (Slurm(gpus="v100:2"), 2), (Slurm(gpus="3"), 3), (Slurm(gpus="a100"), 1),
    ],
)  # fmt: skip
def test_how_many_gpus_are_asked_for(asked: Slurm, number: int) -> None:
    assert gpus_of(asked) == number


def test_a_build_asks_for_what_its_jobs_have_in_common() -> None:
    jobs = [job(slurm={"account": "lab", "partition": "a"}), job(slurm={"account": "lab", "partition": "nope"})]
    asked = build_wishes(Cluster(Slurm(partition="short")), None, jobs)
    assert (asked.account, asked.partition) == ("lab", "short")
    assert build_wishes(Cluster(), 2, []).cpus_per_task == 2


def test_the_queue_keeps_both_blocks_merged_without_names_and_places() -> None:
    both = kept(Slurm(partition="short", output="x.txt", ntasks=2), Slurm(partition="long", job_name="mine"))
    assert both == {"partition": "long", "ntasks": 2}
    assert block(both) == Slurm(partition="long", ntasks=2)
    assert kept(None, None) is None


# --- the inventory ---


def read(tmp_path: Path, text: str) -> inventory.Inventory:
    path = tmp_path / "inventory.yaml"
    path.write_text(text)
    return inventory.read(path)


GOOD = """\
defaults: {scratch: /var/tmp, slots: 2, owner: {pause_when_active: 10m}, gentle: {nice: 19}}
nodes:
  - lab1
  - {name: cluster, host: login.edu, kind: slurm, scratch: /shared/ana, cores: 8, slurm: {partition: short}}
overflow: {to: cluster, after: 30m}
"""


def test_a_cluster_is_no_desk_whatever_holds_for_all_nodes(tmp_path: Path) -> None:
    found = read(tmp_path, GOOD)
    entry = found.node("cluster")
    assert entry.cluster == Cluster(Slurm(partition="short"))
    assert (entry.slots, entry.scratch, entry.pause_when_active, entry.nice) == (100, "/shared/ana", 0.0, 0)
    assert found.node("lab1").pause_when_active == 600.0
    assert found.overflow == {"cluster": 1800.0}


def test_it_offers_cores_to_every_job_and_not_those_of_its_login_machine(tmp_path: Path) -> None:
    entry = read(tmp_path, GOOD).node("cluster")
    facts = probe.Facts(cores=64, memory_mb=1 << 20, gpus=(probe.Gpu(0),), tools={"python3": "3.11"})
    offer = probe.merge(entry, facts)
    assert (offer.cores, offer.memory_mb, offer.gpus) == (800, None, ())
    assert {"python3", "slurm"} <= {*offer.capabilities}


def test_a_cluster_that_left_the_inventory_is_remembered_as_one(tmp_path: Path) -> None:
    entry = read(tmp_path, GOOD).node("cluster")
    row = dict.fromkeys(field.name for field in fields(NodeRow)) | {
        "entry": asdict(entry) | {"from another version": 1}
    }
    assert entry_of(NodeRow(**row)) == entry


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nodes: [{name: c, kind: slurm}]", "lacks the key `scratch`"),
        ("nodes: [{name: c, kind: slrum, scratch: /s}]", "did you mean `slurm`"),
        ("nodes: [{name: c, kind: slurm, scratch: /s, hours: nights}]", "a cluster has no owner"),
        ("nodes: [{name: c, kind: slurm, scratch: /s, slurm: {output: x}}]", "what a job prints is kept"),
        ("nodes: [{name: c, kind: slurm, scratch: /s, slurm: {partion: x}}]", "did you mean `partition`"),
        ("nodes: [{name: c, build: login}]", "add `kind: slurm`"),
        ("nodes: [a]\noverflow: {to: b, after: 1h}", "no node is named 'b'"),
        ("nodes: [a]\noverflow: {to: a}", "lacks the key `after`"),
        ("nodes: [a]\noverflow: {to: [a], after: 0}", "is no time to wait"),
    ],
)
def test_what_is_wrong_with_it_is_named(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(FileError) as caught:
        read(tmp_path, text)
    assert words in str(caught.value)


# --- overflow ---


def test_a_node_for_what_overflows_takes_what_has_waited_long_enough() -> None:
    node = NodeView("cluster", NodeState.UP, frozenset(), 8, 0, 1, (0,), accepts_after=1800.0)
    work = WorkView(1, "ns/b", "ana", 0.0, frozenset(), ready=1, waited=240.0)
    no = refusal(node, work)
    assert no is not None
    assert (no.code, no.text) == (Code.OVERFLOW, "takes what has waited 30m; this has waited 4m")
    assert refusal(node, replace(work, waited=1800.0)) is None
    assert refusal(replace(node, accepts_after=0.0), work) is None


def test_a_node_entry_is_a_machine_unless_it_says_otherwise() -> None:
    assert NodeEntry("lab1").cluster is None
