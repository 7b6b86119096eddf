"""What a node is asked, what its answer means, and what it offers."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from distribute_ssh.model.inventory import NodeEntry
from distribute_ssh.node import probe
from distribute_ssh.node.probe import parse, script
from tests.support.wait import wait_for

FIXTURES = Path(__file__).parents[1] / "fixtures" / "probe"
SHELLS = {"dash": ["dash"], "bash": ["bash", "--posix"], "busybox": ["busybox", "sh"]}
NODE = NodeEntry("lab1")
END = "end\tok\n"

pytestmark = pytest.mark.skipif(platform.system() != "Linux", reason="nodes run Linux")


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest) -> list[str]:
    if shutil.which(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    return SHELLS[request.param]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


def said(
    shell: list[str], home: Path, entry: NodeEntry = NODE, probes: dict[str, str] | None = None, path: str | None = None
) -> str:
    """What the script prints here, run as it will be: from a string, with a stdin that belongs to somebody else."""
    entry = replace(entry, scratch=entry.scratch or str(home))
    env = {"HOME": str(home), "PATH": path or os.environ["PATH"]}
    program = [str(shutil.which(shell[0])), *shell[1:], "-c", script(entry, probes or {})]
    done = subprocess.run(program, env=env, input=b"rm -rf /\n", capture_output=True, timeout=60, check=True)
    assert done.stderr == b""
    return done.stdout.decode()


def command(folder: Path, name: str, text: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)


def only(folder: Path, *names: str) -> str:
    """A PATH with these commands alone."""
    folder.mkdir()
    for name in names:
        found = shutil.which(name)
        assert found is not None
        (folder / name).symlink_to(found)
    return str(folder)


# --- the script, really run ---


def test_the_script_tells_what_this_machine_is_in_every_shell(shell: list[str], home: Path, tmp_path: Path) -> None:
    facts = parse(said(shell, home, NodeEntry("lab1", scratch=str(tmp_path))))
    assert facts.hostname == platform.node()
    assert facts.boot_id == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert facts.uid == os.getuid()
    assert facts.machine == platform.machine()
    assert facts.threads == len(os.sched_getaffinity(0))
    assert facts.cores is not None
    assert 1 <= facts.cores <= facts.threads
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert facts.memory_mb == pages >> 20
    assert facts.login_shell.startswith("/")
    assert facts.scratch == str(tmp_path)
    assert facts.scratch_free is not None
    assert abs(facts.scratch_free - shutil.disk_usage(tmp_path).free) < 1 << 30
    assert facts.scratch_type
    assert facts.scratch_exec is True
    assert facts.has_tar
    assert facts.awk
    assert facts.sha256sum
    assert "python3" in facts.capabilities
    assert facts.clock is not None
    assert abs(facts.clock - time.time()) < 5
    assert list(tmp_path.iterdir()) == [home]


def test_a_node_that_has_hardly_any_tool_still_answers(shell: list[str], home: Path, tmp_path: Path) -> None:
    facts = parse(
        said(shell, home, NodeEntry("a", scratch=str(tmp_path)), path=only(tmp_path / "bin", "id", "mkdir", "rmdir"))
    )
    assert facts.boot_id
    assert facts.uid == os.getuid()
    assert facts.memory_mb
    assert facts.scratch == str(tmp_path)
    assert facts.capabilities == ()
    assert not facts.has_tar
    assert not facts.setsid_fork


def test_a_node_of_busybox_alone_answers(home: Path, tmp_path: Path) -> None:
    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.skip("busybox is not installed")
    (tmp_path / "bin").mkdir()
    for name in subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split():
        (tmp_path / "bin" / name).symlink_to(busybox)
    facts = parse(said(["busybox", "sh"], home, NodeEntry("a", scratch=str(tmp_path)), path=str(tmp_path / "bin")))
    assert facts.cores
    assert facts.scratch_free
    assert facts.has_tar
    assert not facts.gnu_tar
    assert "python3" not in facts.capabilities


@pytest.fixture
def short_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "QUESTION_LIMIT", 1)


def processes(marker: str) -> list[str]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if marker in (folder / "cmdline").read_bytes().decode("utf-8", "replace").replace("\0", " "):
                found.append(folder.name)
        except OSError:  # it has just ended
            continue
    return found


@pytest.mark.usefixtures("short_limit")
def test_a_hanging_question_ends_at_its_limit_with_all_it_started(shell: list[str], home: Path) -> None:
    marker = f"sleep {100_000 + os.getpid()}"
    begun = time.monotonic()
    facts = parse(said(shell, home, probes={"stuck": f"{marker} | cat", "fine": "echo 1.0"}))
    assert time.monotonic() - begun < 15
    assert facts.probes == {"fine": "1.0"}
    assert facts.broken["stuck"] == "did not answer within 1 s"
    wait_for(lambda: processes(marker) == [], "what was killed is gone")  # a busy machine takes a moment for it


@pytest.mark.usefixtures("short_limit")
def test_a_hanging_question_ends_also_where_there_is_no_timeout_command(
    shell: list[str], home: Path, tmp_path: Path
) -> None:
    path = only(tmp_path / "bin", "id", "sleep", "date", "mkdir", "rmdir")
    begun = time.monotonic()
    facts = parse(said(shell, home, probes={"stuck": "exec sleep 977", "fine": "echo 1.0"}, path=path))
    assert time.monotonic() - begun < 15
    assert facts.probes == {"fine": "1.0"}
    assert facts.broken["stuck"] == "did not answer within 1 s"


def test_a_probe_that_leaves_something_running_is_not_waited_for(shell: list[str], home: Path) -> None:
    begun = time.monotonic()
    facts = parse(said(shell, home, probes={"server": "sleep 60 & echo $!"}))
    assert time.monotonic() - begun < 15
    os.kill(int(facts.probes["server"]), 9)


def test_no_text_of_the_inventory_is_taken_for_shell(shell: list[str], home: Path, tmp_path: Path) -> None:
    scratch = tmp_path / "a b'c\"d$(touch pwned)`touch pwned`\\"
    scratch.mkdir()
    env = {"LICENCE": 'it\'s $HOME "and" `more` \\ !', "EMPTY": ""}
    entry = NodeEntry("lab1", scratch=str(scratch), env=env)
    probes = {"it's": "printf '%s\\n' \"$LICENCE\"", "$(touch${IFS}pwned)": "echo '; touch pwned'"}
    facts = parse(said(shell, home, entry, probes))
    assert facts.scratch == str(scratch)
    assert facts.probes == {"it's": env["LICENCE"], "$(touch${IFS}pwned)": "; touch pwned"}
    assert not list(tmp_path.rglob("pwned"))


def test_a_site_probe_says_yes_by_its_exit_code_and_its_first_line_is_the_version(shell: list[str], home: Path) -> None:
    probes = {
        "yes": "echo; echo ' 7.1 '; echo more",
        "silent": "true",
        "no": "echo 7.1; exit 3",
        "absent": "no-such-command --version",
        "loud": "yes | head -n 100000",
        "cut": "head -c 3000 /dev/zero | tr '\\0' x",
        "stderr": "echo oops >&2",
    }
    facts = parse(said(shell, home, probes=probes))
    assert facts.probes == {"yes": "7.1", "silent": "", "loud": "y", "cut": "x" * 400, "stderr": ""}
    assert facts.broken == {}
    assert {"yes", "silent", "loud"} <= set(facts.capabilities)


def test_the_python_of_the_inventory_is_the_one_that_is_asked(shell: list[str], home: Path, tmp_path: Path) -> None:
    command(tmp_path / "a b", "python9", "echo 9.8.7")
    found = parse(said(shell, home, NodeEntry("lab1", python=str(tmp_path / "a b" / "python9"))))
    assert found.tools["python3"] == "9.8.7"
    absent = parse(said(shell, home, NodeEntry("lab1", python="/no/such/python")))
    assert "python3" not in absent.capabilities


def test_gpus_are_found_through_the_tools_of_their_makers(shell: list[str], home: Path, tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    command(tools, "nvidia-smi", f"cat '{FIXTURES}/nvidia-two-desktops.csv'")
    command(tools, "rocm-smi", f"cat '{FIXTURES}/amd-rocm6-four.json'")
    facts = parse(said(shell, home, path=f"{tools}:{os.environ['PATH']}"))
    assert [(gpu.vendor, gpu.index, gpu.memory_mb) for gpu in facts.gpus] == [
        ("nvidia", 0, 24576),
        ("nvidia", 1, 12288),
        ("amd", 0, 65520),
        ("amd", 1, 65520),
        ("amd", 2, 65520),
        ("amd", 10, 65520),
    ]
    assert "gpu" in facts.capabilities


# --- where to work ---


def with_candidates(first: Path, second: Path) -> str:
    """The script, with two folders of ours in the place of /scratch and /var/tmp."""
    text = script(NODE, {})
    assert "/scratch /var/tmp" in text
    return text.replace("/scratch /var/tmp", f"'{first}' '{second}'")


def scratch_of(shell: list[str], text: str, home: Path) -> str | None:
    env = {"HOME": str(home), "PATH": os.environ["PATH"]}
    done = subprocess.run([*shell, "-c", text], env=env, capture_output=True, timeout=60, check=True)
    facts = parse(done.stdout)
    assert (facts.scratch is None) == (facts.no_scratch is not None)
    return facts.scratch


def test_scratch_is_the_first_folder_that_can_be_written(shell: list[str], home: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    text = with_candidates(first, second)
    assert scratch_of(shell, text, home) == str(home / ".cache")
    second.mkdir()
    assert scratch_of(shell, text, home) == str(second)
    first.mkdir()
    assert scratch_of(shell, text, home) == str(first)


def test_a_node_without_any_scratch_says_so(shell: list[str], tmp_path: Path) -> None:
    assert scratch_of(shell, with_candidates(tmp_path / "a", tmp_path / "b"), Path("/proc")) is None


def test_scratch_stays_where_our_room_is_when_a_better_folder_appears(
    shell: list[str], home: Path, tmp_path: Path
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    (second / f"distribute-{os.getuid()}").mkdir(parents=True)
    first.mkdir()
    assert scratch_of(shell, with_candidates(first, second), home) == str(second)


def test_a_room_that_is_a_link_is_none_of_ours(shell: list[str], home: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    (first / f"distribute-{os.getuid()}").symlink_to(tmp_path)
    assert scratch_of(shell, with_candidates(first, second), home) == str(second)


def test_the_scratch_of_the_inventory_is_never_replaced_by_another(
    shell: list[str], home: Path, tmp_path: Path
) -> None:
    cases = {tmp_path / "absent": "is not there", Path("/proc"): "cannot be written to", tmp_path: "somebody else"}
    (tmp_path / f"distribute-{os.getuid()}").symlink_to("/etc")
    for folder, why in cases.items():
        facts = parse(said(shell, home, NodeEntry("lab1", scratch=str(folder))))
        assert facts.scratch is None
        assert facts.no_scratch is not None
        assert str(folder) in facts.no_scratch
        assert why in facts.no_scratch


def test_a_scratch_below_home_is_found_there(shell: list[str], home: Path) -> None:
    (home / "work").mkdir()
    assert parse(said(shell, home, NodeEntry("lab1", scratch="~/work"))).scratch == str(home / "work")
    assert parse(said(shell, home, NodeEntry("lab1", scratch="~"))).scratch == str(home)


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k,noexec", "tmpfs", str(folder)]
    if os.getuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("a file system cannot be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.root
def test_a_disk_that_runs_nothing_is_told_and_a_full_one_stays_the_scratch(
    shell: list[str], home: Path, tiny_disk: Path
) -> None:
    entry = NodeEntry("lab1", scratch=str(tiny_disk))
    facts = parse(said(shell, home, entry))
    assert facts.scratch_exec is False
    assert facts.scratch_type == "tmpfs"
    assert facts.scratch_free == 64 << 10
    (tiny_disk / f"distribute-{os.getuid()}").mkdir()
    with pytest.raises(OSError, match="No space left"):
        (tiny_disk / "filler").write_bytes(bytes(1 << 20))
    full = parse(said(shell, home, entry))
    assert full.scratch == str(tiny_disk)
    assert full.scratch_free == 0
    assert full.scratch_exec is None


def test_a_fingerprint_tells_whether_the_same_was_asked() -> None:
    asked = [(NODE, {}), (NODE, {"yes": "true"}), (NODE, {"yes": "false"}), (NodeEntry("lab1", scratch="/a"), {})]
    assert len({probe.fingerprint(script(entry, probes)) for entry, probes in asked}) == len(asked)
    assert probe.fingerprint(script(NODE, {})) == probe.fingerprint(script(NodeEntry("lab2", slots=3), {}))
