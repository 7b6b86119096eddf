"""`nodes probe`, `nodes trust`, `nodes doctor` against a real sshd."""

from __future__ import annotations

import signal

import pytest

from tests.endtoend.site import Site
from tests.support.sshd import make_key

pytestmark = pytest.mark.sshd


def test_a_probe_writes_down_what_a_node_has(site: Site) -> None:
    site.node("lab1")
    command = site.do("nodes", "probe")
    assert command.answered() == "lab1  ok\n"
    (node,) = site.data("nodes")["nodes"]
    assert (node["state"], node["probed"]) == ("up", True)
    assert "python3" in node["capabilities"]
    assert node["last_seen"] is not None


def test_a_probe_of_a_node_that_is_away_says_so_with_6(site: Site) -> None:
    site.node("lab1")
    site.node("lab2").sshd.stop()
    found = {each["name"]: each for each in site.data("nodes", "probe", code=6)["probed"]}
    assert found["lab1"] == {"name": "lab1", "ok": True, "error": None}
    assert found["lab2"]["ok"] is False
    assert "ssh lab2" in found["lab2"]["error"]
    states = {each["name"]: each["state"] for each in site.data("nodes")["nodes"]}
    assert states == {"lab1": "up", "lab2": "unreachable"}


def test_a_host_key_is_shown_and_trusted_only_when_somebody_says_so(site: Site) -> None:
    site.enter("lab1", scratch=str(site.lab.add("lab1", known=False).scratch))
    refused = site.do("nodes", "probe", code=6)
    assert "nodes trust lab1" in refused.answered()
    asked = site.do("nodes", "trust", "lab1", code=2)
    assert "SHA256:" in asked.said()
    site.do("nodes", "probe", code=6)
    told = site.data("nodes", "trust", "lab1", "-y")
    assert told["type"] == "ssh-ed25519"
    assert told["fingerprint"] in asked.said()
    site.do("nodes", "probe")
    again = site.do("nodes", "trust", "lab1")
    assert "trusted already" in again.said()


def test_a_key_that_changed_is_not_replaced_by_the_way(site: Site) -> None:
    node = site.lab.add("lab1", known=False)
    site.enter("lab1", scratch=str(node.scratch))
    site.do("nodes", "trust", "lab1", "-y")
    node.sshd.stop()
    for path in (node.sshd.host_key, node.sshd.host_key.with_name("host_key.pub")):
        path.unlink()
    make_key(node.sshd.host_key)
    node.sshd.start()
    refused = site.do("nodes", "trust", "lab1", "-y", code=6)
    assert "--replace" in refused.said()
    site.do("nodes", "probe", code=6)
    site.do("nodes", "trust", "lab1", "--replace", "-y")
    site.do("nodes", "probe")


def test_this_machine_has_no_host_key_to_trust(site: Site) -> None:
    site.local()
    assert "this machine" in site.do("nodes", "trust", "here", "-y", code=2).said()


def test_logs_of_a_running_job_come_over_ssh(site: Site) -> None:
    site.node("lab1")
    command = site.start("run", site.batch({"slow": "print('begun', flush=True)\ngate('slow')\nprint('ended')\n"}))
    site.wait_state("slow", "running")
    site.wait(lambda: site.do("logs", "b", "slow").answered() == "begun\n", "the log shows what there is")
    follower = site.start("logs", "-f", "-n", "1", "b", "slow")
    site.wait(follower.answered, "the follower shows something")
    site.open("slow")
    assert command.end() == 0
    assert follower.end() == 0
    assert follower.answered() == "begun\nended\n"


def test_a_job_on_a_node_that_is_away_cannot_be_killed_now_and_that_is_said(site: Site) -> None:
    node = site.node("lab1")
    command = site.start("run", site.batch({"slow": "gate('slow')\n"}))
    site.wait_state("slow", "running")
    command.interrupt(signal.SIGINT)
    node.sshd.stop()
    killing = site.do("kill", "b", "-y", code=6)
    assert "lab1 does not answer" in killing.said()
    assert "stays requested" in killing.said()
    assert site.states() == {"slow": "running"}
    assert "kill requested" in site.do("status", "b").answered()
    node.sshd.start()
    site.do("kill", "b", "-y")
    assert site.states() == {"slow": "killed"}
    assert not site.processes()


def test_doctor_finds_nothing_wrong_with_a_good_node(site: Site) -> None:
    site.node("lab1")
    site.local()
    found = site.data("nodes", "doctor", "lab1", "here")["checks"]
    assert {each["node"] for each in found} == {"lab1", "here"}
    assert all(each["ok"] is not False for each in found)


def test_doctor_says_what_to_do_about_a_node_that_is_away(site: Site) -> None:
    site.node("lab1").sshd.stop()
    command = site.do("nodes", "doctor", code=6)
    assert "lab1  NO  " in command.answered()
    found = site.data("nodes", "doctor", code=6)["checks"]
    assert any(each["ok"] is False and each["remedy"] for each in found)
    assert site.do("nodes", "doctor", "-q", code=6).answered() == "lab1\n"


def test_doctor_looks_at_storage_too_unless_nodes_are_named(site: Site) -> None:
    site.local()
    (last,) = [each for each in site.data("nodes", "doctor")["checks"] if each["node"] == "storage"]
    assert (last["step"], last["ok"]) == ("write", True)
    assert list(site.storage.iterdir()) == [], "it tidied up"
    (site.folder / "file").touch()
    site.write_inventory(storage=str(site.folder / "file"))
    broken = site.do("nodes", "doctor", code=6)
    assert "storage  NO  write" in broken.answered()
    assert site.data("nodes", "doctor", "here")["checks"][-1]["node"] == "here"
