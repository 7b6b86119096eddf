"""The lab keeps its promises: machines are separate, each verb does what it says, and nothing is left of it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from tests.lab.claim import Claim
from tests.lab.lab import CHECKOUT, Lab, take_down_leftovers
from tests.lab.process import Process
from tests.support import processes
from tests.support.wait import wait_for

MakeLab = Callable[..., Lab]
SILENCE = 1.0  # seconds in which an answer would have come many times over


class Talk:
    """A command over ssh that stays: what is said to it comes back."""

    def __init__(self, lab: Lab, node: str) -> None:
        self.process = subprocess.Popen(
            lab.ssh(node, "cat"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0
        )

    def say(self, text: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{text}\n".encode())

    def hears(self, limit: float) -> str | None:
        """What comes back, or None if nothing does within `limit` seconds."""
        assert self.process.stdout is not None
        if not select.select([self.process.stdout], [], [], limit)[0]:
            return None
        return os.read(self.process.stdout.fileno(), 100).decode().strip()

    def round_trip(self) -> float:
        """The seconds a word takes there and back, at best."""
        taken = []
        for _ in range(5):
            began = time.monotonic()
            self.say("word")
            assert self.hears(20) == "word"
            taken.append(time.monotonic() - began)
        return min(taken)


@contextlib.contextmanager
def talk(lab: Lab, node: str) -> Iterator[Talk]:
    """One that has been answered once, so that the connection is there."""
    talk = Talk(lab, node)
    try:
        talk.round_trip()
        yield talk
    finally:
        talk.process.kill()
        talk.process.communicate()


def over_ssh(lab: Lab, node: str, *command: str) -> str:
    ended = subprocess.run(lab.ssh(node, *command), check=True, capture_output=True, text=True, timeout=30)
    return ended.stdout.strip()


def refuses(lab: Lab, node: str) -> bool:
    quick = ["ssh", "-o", "ConnectTimeout=1", *lab.ssh(node, "true")[1:]]
    return subprocess.run(quick, check=False, capture_output=True, timeout=30).returncode == 255


def namespaces(lab: Lab, node: str) -> set[str]:
    """Those of a machine, as the kernel names them."""
    pid = lab.machines[node].first.pid
    return {os.readlink(f"/proc/{pid}/ns/{kind}") for kind in ("net", "pid", "mnt", "uts", "ipc")}


def inside(lab: Lab, *nodes: str) -> dict[Process, tuple[str, ...]]:
    """All processes of machines, as this computer sees them, with their command lines."""
    wanted = {os.readlink(f"/proc/{lab.machines[node].first.pid}/ns/pid") for node in nodes}
    found = {}
    for each in processes.everything():
        with contextlib.suppress(OSError):  # it has just ended
            process = Process.written(Path(f"/proc/{each.pid}/stat"))
            if process and os.readlink(f"/proc/{each.pid}/ns/pid") in wanted:
                found[process] = each.command
    return found


def is_any_alive(some: Iterable[Process]) -> bool:
    return any(each.is_alive for each in some)


def left_of(number: int) -> list[str]:
    """Interfaces, mounts, folders and processes that belong to the lab of a number."""
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    folder = str(Claim(number).folder)
    found = [
        path.name for path in Path("/sys/class/net").iterdir() if re.fullmatch(rf"lab{number}([nrs]\d+)?", path.name)
    ]
    found += [line for line in mounts if Path(line.split()[4]).is_relative_to(folder)]
    found += [folder] if os.path.exists(folder) else []
    for each in processes.everything():
        command = " ".join(each.command)
        if f"{folder}/" in command or command.endswith(f"tests.lab attend {number}"):
            found.append(command)
    return found


# --- machines ---


def test_each_machine_has_names_processes_and_files_of_its_own(lab: MakeLab) -> None:
    made = lab(2)
    assert [over_ssh(made, node, "hostname") for node in ("node1", "node2")] == ["node1", "node2"]
    boots = [over_ssh(made, node, "cat", "/proc/sys/kernel/random/boot_id") for node in ("node1", "node2")]
    computer = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert len({*boots, computer}) == 3
    assert not namespaces(made, "node1") & namespaces(made, "node2")

    over_ssh(made, "node1", "sleep 1000 > /dev/null 2>&1 &")
    assert "sleep 1000" in over_ssh(made, "node1", "ps", "-eo", "args")
    there = over_ssh(made, "node2", "ps", "-eo", "args").splitlines()
    assert all(re.match(r"COMMAND|sshd|sh -c ps|ps -eo", line) for line in there), there

    for folder in ("/etc", "/home", "/root", "/run", "/tmp", "/var/tmp", "/dev/shm"):
        made.exec("node1", ["touch", f"{folder}/lab-was-here"])
        assert made.exec("node2", ["ls", f"{folder}/lab-was-here"], check=False).returncode
        assert not Path(folder, "lab-was-here").exists()


def test_the_service_user_can_write_in_its_home_and_in_temporary_folders_only(lab: MakeLab) -> None:
    made = lab(1)
    found = over_ssh(made, "node1", "find / -xdev -maxdepth 3 -type d -writable 2>/dev/null || :")
    assert sorted(found.splitlines()) == ["/home/distribute", "/home/distribute/.ssh", "/tmp", "/var/tmp"]
    assert re.fullmatch(
        r"uid=\d+\(distribute\) gid=\d+\(distribute\) groups=\d+\(distribute\)", over_ssh(made, "node1", "id")
    )


def test_machines_reach_each_other_and_the_head_by_name(lab: MakeLab) -> None:
    made = lab(2)
    key = made.access.key.read_text()
    made.exec("node1", ["sh", "-c", "umask 077; cat > /tmp/key"], "distribute", text=key)
    hop = ["ssh", "-i", "/tmp/key", "-o", "StrictHostKeyChecking=accept-new", "node2", "hostname"]
    assert made.exec("node1", hop, "distribute").stdout == "node2\n"
    assert made.exec("node1", ["getent", "hosts", "head"]).stdout.split() == [made.bridge.address(), "head"]


def test_users_have_the_shells_that_were_asked_for(lab: MakeLab) -> None:
    made = lab(1, users={"distribute": "/bin/bash", "bob": "/bin/sh"})
    assert over_ssh(made, "node1", "echo $BASH").endswith("/bash")
    ended = subprocess.run(made.ssh("node1", "whoami", user="bob"), check=True, capture_output=True, timeout=30)
    assert ended.stdout == b"bob\n"


def test_a_pretended_program_is_found_first_over_ssh_and_in_exec(lab: MakeLab) -> None:
    made = lab(2)
    made.pretend("node1", "nproc", "#!/bin/sh\necho 96\n")
    assert over_ssh(made, "node1", "nproc") == "96"
    assert made.exec("node1", ["nproc"], "ana").stdout == "96\n"
    assert over_ssh(made, "node2", "nproc") == str(os.cpu_count())


# --- lines ---


def test_while_a_cable_is_cut_nothing_comes_and_after_mend_the_same_connection_goes_on(lab: MakeLab) -> None:
    made = lab(2)
    with talk(made, "node1") as one, talk(made, "node2") as other:
        made.cut("node1")
        one.say("while it was cut")
        assert one.hears(SILENCE) is None
        other.round_trip()
        made.mend("node1")
        assert one.hears(20) == "while it was cut"
        assert one.process.poll() is None


def test_a_slow_line_is_slow_for_connections_that_are_open_and_keeps_every_byte(lab: MakeLab) -> None:
    made = lab(2)
    data = os.urandom(1 << 20)
    with talk(made, "node1") as one, talk(made, "node2") as other:
        made.slow("node1", 40)
        assert one.round_trip() > 0.08
        assert other.round_trip() < 0.08
        sent = subprocess.run(
            made.ssh("node1", "cat > copy; sha256sum < copy"), input=data, check=True, capture_output=True, timeout=60
        )
        assert sent.stdout.split()[0].decode() == hashlib.sha256(data).hexdigest()
        back = subprocess.run(made.ssh("node1", "cat copy"), check=True, capture_output=True, timeout=60)
        assert back.stdout == data
        made.cut("node1")
        one.say("slow and cut")
        assert one.hears(SILENCE) is None
        made.mend("node1")
        assert one.hears(20) == "slow and cut"
        made.slow("node1", 0)
        assert one.round_trip() < 0.08


# --- power ---


def test_a_crash_ends_every_process_tells_nobody_and_keeps_files(lab: MakeLab) -> None:
    made = lab(2)
    over_ssh(made, "node1", "echo kept > file; sync; (setsid sleep 1000 > /dev/null 2>&1 & )")
    made.login("node1", "ana").type("setsid sleep 1000 &")
    wait_for(lambda: list(inside(made, "node1").values()).count(("sleep", "1000")) == 2, "both run")
    with talk(made, "node1") as one, talk(made, "node2") as other:
        there = inside(made, "node1")
        made.crash("node1")
        assert not is_any_alive(there)
        one.say("anybody there?")
        assert one.hears(SILENCE) is None
        assert one.process.poll() is None, "a machine without power resets no connection"
        other.round_trip()
    assert refuses(made, "node1")
    made.start("node1")
    assert over_ssh(made, "node1", "cat file") == "kept"


def test_after_a_reboot_the_boot_id_is_another_files_are_kept_and_old_connections_are_refused(lab: MakeLab) -> None:
    made = lab(1)
    boot = over_ssh(made, "node1", "cat /proc/sys/kernel/random/boot_id")
    over_ssh(made, "node1", "touch file /var/tmp/file /tmp/file")
    with talk(made, "node1") as one:
        made.reboot("node1")
        with contextlib.suppress(BrokenPipeError):  # a late acknowledgement may have told it already
            one.say("anybody there?")
        assert one.process.wait(20) == 255, "the machine knows nothing of this connection"
    again = over_ssh(made, "node1", "cat /proc/sys/kernel/random/boot_id")
    assert again == made.machines["node1"].boot_id != boot
    assert over_ssh(made, "node1", "ls file /var/tmp/file") == "/var/tmp/file\nfile"
    assert made.exec("node1", ["ls", "/tmp/file"], check=False).returncode, "/tmp is new after a boot"
    assert "sleep" not in over_ssh(made, "node1", "ps -eo args")


def test_a_cable_that_is_cut_stays_cut_over_a_reboot(lab: MakeLab) -> None:
    made = lab(1)
    made.cut("node1")
    made.reboot("node1")
    assert refuses(made, "node1")
    made.mend("node1")
    assert over_ssh(made, "node1", "hostname") == "node1"


# --- disks and people ---


def test_a_full_machine_takes_no_byte_more_until_it_gets_its_room_back(lab: MakeLab) -> None:
    made = lab(2, scratch="16m")
    write = ["sh", "-c", "head -c 100000 /dev/zero > /var/tmp/some"]
    made.exec("node1", ["sh", "-c", "echo one > /var/tmp/small"], "distribute")
    made.fill("node1")
    full = made.exec("node1", ["dd", "if=/etc/hostname", "of=/var/tmp/other"], "distribute", check=False)
    assert "No space left on device" in full.stderr
    assert made.exec("node1", ["cat", "/var/tmp/small"]).stdout == "one\n"
    made.exec("node1", ["touch", "/home/distribute/elsewhere"], "distribute")
    made.exec("node2", write, "distribute")
    made.unfill("node1")
    made.exec("node1", write, "distribute")
    assert made.exec("node1", ["sh", "-c", "head -c 20000000 /dev/zero > /var/tmp/big"], check=False).returncode


def test_a_person_logs_in_at_a_terminal_types_also_while_the_cable_is_cut_and_leaves(lab: MakeLab) -> None:
    made = lab(1, users={"bob": "/bin/sh"})
    ana, bob = made.login("node1"), made.login("node1", "bob")
    assert ana.terminal != bob.terminal
    logged_in = [line.split()[:2] for line in made.exec("node1", ["who"]).stdout.splitlines()]
    assert sorted(logged_in) == sorted([["ana", ana.terminal], ["bob", bob.terminal]])
    made.cut("node1")
    ana.type('echo "$(id -un) at $(tty)"')
    wait_for(lambda: f"ana at /dev/{ana.terminal}\n" in ana.screen(), "the shell answers")
    ana.leave()
    bob.leave()
    assert made.exec("node1", ["ps", "-u", "ana,bob", "-o", "args="], check=False).stdout == ""


# --- the end ---


def test_labs_live_side_by_side_and_one_that_is_taken_down_leaves_nothing(lab: MakeLab) -> None:
    stays, goes = lab(1), lab(3)
    number = goes.claim.number
    assert stays.claim.number != number
    assert stays.machines["node1"].address != goes.machines["node1"].address
    goes.slow("node1", 5)
    goes.cut("node2")
    goes.crash("node3")
    goes.login("node1")
    there = inside(goes, "node1", "node2")
    goes.down()
    assert not is_any_alive(there)
    wait_for(lambda: not left_of(number), "even its attendant is gone")
    assert over_ssh(stays, "node1", "hostname") == "node1"


def test_a_lab_that_cannot_be_made_leaves_nothing(lab: MakeLab) -> None:
    with pytest.raises(AssertionError, match="size=nonsense") as caught:
        lab(2, scratch="nonsense")
    found = re.search(r"/run/distribute-lab/(\d+)/node1", str(caught.value))
    assert found
    wait_for(lambda: not left_of(int(found[1])), "nothing is left")


MAKER = "from tests.lab.lab import Lab; import time; print(Lab.up(2).claim.number, flush=True); time.sleep(600)"


@pytest.fixture
def maker() -> Iterator[subprocess.Popen[str]]:
    """A process that has made a lab of two machines."""
    process = subprocess.Popen([sys.executable, "-c", MAKER], cwd=CHECKOUT, stdout=subprocess.PIPE, text=True)
    yield process
    process.kill()
    process.communicate()


def number_of(maker: subprocess.Popen[str]) -> int:
    assert maker.stdout is not None
    return int(maker.stdout.readline())


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_lab_ends_with_its_maker(maker: subprocess.Popen[str], how: signal.Signals) -> None:
    number = number_of(maker)
    there = inside(Lab(Claim(number)), "node1", "node2")
    assert is_any_alive(there)
    maker.send_signal(how)
    wait_for(lambda: not left_of(number), "all of it is gone by itself")
    assert not is_any_alive(there)


def test_what_nobody_could_take_down_the_next_lab_takes_down(maker: subprocess.Popen[str], lab: MakeLab) -> None:
    number = number_of(maker)
    there = inside(Lab(Claim(number)), "node1", "node2")
    (attendant,) = processes.running(sys.executable, "-m", "tests.lab", "attend", str(number))
    os.kill(attendant, signal.SIGKILL)
    take_down_leftovers()
    assert all(each.is_alive for each in there), "it is not left over as long as its maker lives"
    maker.kill()
    maker.wait()
    lab(1)
    assert not is_any_alive(there)
    wait_for(lambda: not left_of(number), "nothing is left")


def test_the_command_line_makes_a_lab_that_stays_and_does_everything_to_it(tmp_path: Path) -> None:
    def do(*argv: str) -> str:
        whole = [sys.executable, "-m", "tests.lab", *argv]
        return subprocess.run(whole, check=True, cwd=CHECKOUT, capture_output=True, text=True, timeout=60).stdout

    said = do("up", "2")
    found = re.search(r"DISTRIBUTE_INVENTORY=(.*/(\d+)/access/inventory.yaml)", said)
    assert found, said
    number = found[2]
    made = Lab(Claim(int(number)))
    on = ("--lab", number)
    try:
        assert "defaults" in Path(found[1]).read_text()
        assert f"{number} node2 {made.machines['node2'].address} up" in do(*on, "list")
        take_down_leftovers()
        assert over_ssh(made, "node1", "hostname") == "node1", "it stays"
        assert do(*on, "exec", "--user", "ana", "node2", "whoami") == "ana\n"
        do(*on, "cut", "node1")
        assert refuses(made, "node1")
        do(*on, "mend", "node1")
        boot = made.machines["node1"].boot_id
        do(*on, "crash", "node1")
        assert f"{number} node1 {made.machines['node1'].address} down" in do(*on, "list")
        do(*on, "start", "node1")
        do(*on, "slow", "node1", "5")
        assert over_ssh(made, "node1", "cat /proc/sys/kernel/random/boot_id") == made.machines["node1"].boot_id != boot
        do(*on, "fill", "node1")
        assert made.exec("node1", ["sh", "-c", "echo > /var/tmp/new"], check=False).returncode
        do(*on, "unfill", "node1")
        do(*on, "reboot", "node1")
    finally:
        do(*on, "down")
    assert not left_of(int(number))


def test_a_process_is_never_taken_for_another_of_the_same_number() -> None:
    with subprocess.Popen(["sleep", "1000"]) as sleeper:
        other = Process(sleeper.pid, started=1)
        assert not other.is_alive
        other.end()
        assert sleeper.poll() is None
        sleeper.kill()
