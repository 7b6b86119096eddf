"""What the answer of a node means, and what the node offers by it: text in, values out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distribute_ssh.model.inventory import NodeEntry
from distribute_ssh.node.probe import Facts, Gpu, merge, parse

FIXTURES = Path(__file__).parents[1] / "fixtures" / "probe"
NODE = NodeEntry("lab1")
END = "end\tok\n"

# --- what an answer means ---


def recorded(name: str) -> Facts:
    return parse((FIXTURES / name).read_bytes())


def test_a_workstation_is_read_from_its_answer() -> None:
    facts = recorded("ubuntu-workstation.txt")
    assert (facts.hostname, facts.os, facts.login_shell) == ("lab3", "Ubuntu 22.04.5 LTS", "/usr/bin/fish")
    assert (facts.cores, facts.threads, facts.memory_mb, facts.load) == (16, 32, 64154, 3.42)
    assert (facts.scratch, facts.scratch_type, facts.scratch_exec) == ("/scratch", "xfs", False)
    assert (facts.scratch_free, facts.scratch_inodes_free) == (1011772032 << 10, 120898449)
    assert (facts.systemd, facts.linger, facts.user_manager) == (True, False, True)
    assert (facts.kill_user_processes, facts.remove_ipc) == (False, True)
    assert (facts.cgroup, facts.cgroup_writable) == (2, True)
    assert facts.tools == {
        "python3": "3.10.12",
        "gcc": "11.4.0",
        "gfortran": "11.4.0",
        "make": "4.3",
        "mpi": "4.1.2",
        "apptainer": "1.3.4",
        "singularity": "1.3.4",
    }
    assert facts.probes == {"openfoam": "/opt/openfoam10/platforms/linux64Gcc/bin/simpleFoam"}
    assert facts.capabilities == tuple(
        "apptainer gcc gfortran gpu make mpi openfoam python3 singularity".split()  # noqa: SIM905
    )
    assert facts.broken == {}
    assert facts.gnu_tar
    assert facts.find_printf
    assert facts.setsid_fork
    assert facts.clock == 1743444000


def test_a_thin_node_is_read_from_its_answer() -> None:
    facts = recorded("alpine-busybox.txt")
    assert facts.cores == 4
    assert facts.capabilities == ("make",)
    assert facts.no_scratch == "/data/work is not there"
    assert facts.scratch is None
    assert facts.scratch_free is None
    assert facts.scratch_exec is None
    assert (facts.has_tar, facts.gnu_tar, facts.find_printf, facts.setsid_fork) == (True, False, False, False)
    assert (facts.systemd, facts.linger, facts.kill_user_processes) == (False, None, None)


def test_a_crowded_login_node_is_read_from_its_answer() -> None:
    facts = recorded("cluster-login.txt")
    assert facts.cores == 4  # it has 64; we may use 4
    assert facts.scratch_is_network
    assert facts.scratch_type == "nfs4"
    assert facts.scratch_free == 1073741824 << 10
    assert facts.scratch_inodes_free is None
    assert (facts.kill_user_processes, facts.remove_ipc) == (True, None)
    assert facts.tools["gcc"] == "8.5.0"
    assert facts.tools["mpi"] == "2021.9"
    assert {"apptainer", "singularity"} <= set(facts.capabilities)
    assert "gpu" not in facts.capabilities
    assert set(facts.broken) == {"gfortran", "cmake", "nvidia-smi", "licence"}
    assert facts.broken["gfortran"] == "is there but does not work (exit 1)"
    assert facts.broken["cmake"] == facts.broken["licence"] == "did not answer within 20 s"
    assert "couldn't communicate with the NVIDIA driver" in facts.broken["nvidia-smi"]


def gpu_answer(tool: str, fixture: str, status: int = 0) -> Facts:
    text = (FIXTURES / fixture).read_text()
    folded = [line[i : i + 300] for line in text.splitlines() for i in range(0, len(line), 300)]
    out = "".join(f"out\t{tool}\t{line}\n" for line in folded)
    return parse(f"MemTotal:\t127600748 kB\n{out}exit\t{tool}\t{status}\n{END}")


def test_nvidia_gpus_have_model_memory_and_uuid() -> None:
    first, second = gpu_answer("nvidia-smi", "nvidia-two-desktops.csv").gpus
    assert first == Gpu(0, "nvidia", "NVIDIA GeForce RTX 3090", 24576, "GPU-3f2c9a51-7d0e-4b6a-9c31-52f0d1a7be88")
    assert (second.index, second.memory_mb) == (1, 12288)
    many = gpu_answer("nvidia-smi", "nvidia-eight-a100.csv").gpus
    assert len({gpu.uuid for gpu in many}) == 8
    assert {gpu.memory_mb for gpu in many} == {81920}


def test_what_is_in_desktops_and_servers_of_today_is_read() -> None:
    big, small = gpu_answer("nvidia-smi", "nvidia-rtx4090-and-a2000.csv").gpus
    assert (big.model, big.memory_mb) == ("NVIDIA GeForce RTX 4090", 24564)
    assert (small.model, small.memory_mb) == ("NVIDIA RTX A2000", 6138)
    assert [gpu.memory_mb for gpu in gpu_answer("nvidia-smi", "nvidia-four-h100.csv").gpus] == [81559] * 4
    mi210 = gpu_answer("rocm-smi", "amd-two-mi210.json").gpus[1]
    assert mi210 == Gpu(1, "amd", "AMD Instinct MI210", 65520, "GPU-1b2c3d4e5f607182")
    mi300 = gpu_answer("rocm-smi", "amd-two-mi300x.json").gpus[0]
    assert (mi300.model, mi300.memory_mb) == ("AMD Instinct MI300X", 196592)


def test_of_a_gpu_that_mig_has_split_each_part_is_one() -> None:
    said = ""
    for tool, fixture in (("nvidia-smi", "nvidia-mig.csv"), ("nvidia-list", "nvidia-mig-list.txt")):
        said += "".join(f"out\t{tool}\t{line}\n" for line in (FIXTURES / fixture).read_text().splitlines())
        said += f"exit\t{tool}\t0\n"
    gpus = parse(said + END).gpus
    assert [(gpu.index, gpu.memory_mb) for gpu in gpus] == [(100, 20480), (101, 5120), (102, 5120), (1, 40960)]
    assert gpus[0].model == "NVIDIA A100-SXM4-40GB MIG 3g.20gb"
    assert gpus[0].uuid == "MIG-c7384736-a75d-5afc-978f-d2f1294409fd"


def test_a_gpu_that_shares_the_memory_of_its_machine_has_that_much() -> None:
    (gpu,) = gpu_answer("nvidia-smi", "nvidia-shared-memory.csv").gpus
    assert (gpu.model, gpu.memory_mb) == ("NVIDIA GB10", 127600748 >> 10)


def test_a_gpu_that_fell_off_the_bus_does_not_hide_the_others() -> None:
    assert [gpu.index for gpu in gpu_answer("nvidia-smi", "nvidia-one-lost.csv").gpus] == [0, 2]


@pytest.mark.parametrize(
    ("fixture", "status", "told"),
    [
        ("nvidia-driver-gone.txt", 9, "is there but does not work (exit 9): NVIDIA-SMI has failed"),
        ("nvidia-no-devices.txt", 0, "is there but shows no GPU: No devices were found"),
        ("nvidia-no-devices.txt", 6, "is there but does not work (exit 6): No devices were found"),
    ],
)
def test_a_driver_without_a_gpu_is_no_capability_and_is_told(fixture: str, status: int, told: str) -> None:
    facts = gpu_answer("nvidia-smi", fixture, status)
    assert facts.gpus == ()
    assert "gpu" not in facts.capabilities
    assert facts.broken["nvidia-smi"].startswith(told)


def test_amd_gpus_are_read_from_old_and_new_releases() -> None:
    (old,) = gpu_answer("rocm-smi", "amd-rocm5.json").gpus
    assert old == Gpu(0, "amd", "Radeon VII", 16368, "GPU-5f3a1c0d2e4b6978")
    new = gpu_answer("rocm-smi", "amd-rocm6-four.json").gpus
    assert [gpu.index for gpu in new] == [0, 1, 2, 10]
    assert new[0].model.startswith("AMD INSTINCT MI200")
    assert new[0].memory_mb == 65520


def test_the_graphics_built_into_a_processor_is_no_gpu_to_compute_on() -> None:
    assert [gpu.model for gpu in gpu_answer("rocm-smi", "amd-with-built-in.json").gpus] == ["Radeon RX 7900 XT"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"card0": 1}', '{"cardx": {}}', "ERROR: no amdgpu", '{"card0"'])
def test_whatever_rocm_smi_prints_is_survived(text: str) -> None:
    facts = parse(f"out\trocm-smi\t{text}\nexit\trocm-smi\t0\n{END}")
    assert facts.gpus == ()
    assert "rocm-smi" in facts.broken


@pytest.mark.parametrize(
    ("tool", "line", "version"),
    [
        ("gcc", "gcc (GCC) 14.2.1 20240910 (Red Hat 14.2.1-1)", "14.2.1"),
        ("cmake", "cmake version 3.25.1", "3.25.1"),
        ("mpi", "    Version:                                 4.0.2", "4.0.2"),
        ("mpi", "mpirun (Open MPI) 5.0.3", "5.0.3"),
        ("singularity", "singularity version 3.8.7-1.el8", "3.8.7"),
        ("apptainer", "apptainer version 1.3.4", "1.3.4"),
        ("make", "a make of my own", "a make of my own"),
        ("make", "built (1.2)", "1.2"),
        ("make", "", ""),
    ],
)
def test_a_version_is_found_in_what_tools_print(tool: str, line: str, version: str) -> None:
    assert parse(f"out\t{tool}\t{line}\nexit\t{tool}\t0\n{END}").tools == {tool: version}


def test_what_a_profile_prints_around_the_answer_changes_nothing() -> None:
    text = (FIXTURES / "ubuntu-workstation.txt").read_text()
    noise = "Welcome to lab3!\n\n  \t\n\tno key\nthreads\nexit\t\nexit\tgcc\tmaybe\nout\n\x1b[2Jbell\x07\t\x00\n"
    assert parse(noise + text + noise) == parse(text)


def test_an_answer_that_breaks_off_is_refused_and_not_taken_for_a_poorer_node() -> None:
    whole = (FIXTURES / "ubuntu-workstation.txt").read_text()
    for end in (0, len(whole) // 2, len(whole) - len(END)):
        with pytest.raises(ValueError, match="cut short"):
            parse(whole[:end])


def test_what_a_node_says_cannot_drive_a_terminal() -> None:
    facts = parse(b"hostname\tlab\x1b[2J\xff3\nout\tmake\t\x1b]0;x\x07Make 4.3\nexit\tmake\t0\n" + END.encode())
    assert facts.hostname == "lab[2J\N{REPLACEMENT CHARACTER}3"
    assert facts.tools["make"] == "4.3"


@given(st.text(st.characters(codec="utf-8"), max_size=300) | st.text('outexi\t\n0129:,{}[]"/ kB-', max_size=300))
def test_no_answer_can_break_the_reader(text: str) -> None:
    facts = parse(f"{text}\n{END}")
    assert Facts.from_json(json.loads(json.dumps(facts.to_json()))) == facts


@pytest.mark.parametrize("name", ["ubuntu-workstation.txt", "alpine-busybox.txt", "cluster-login.txt"])
def test_facts_survive_being_kept_as_json(name: str) -> None:
    facts = recorded(name)
    assert Facts.from_json(json.loads(json.dumps(facts.to_json()))) == facts


def test_facts_kept_by_another_version_are_read_as_far_as_they_are_known() -> None:
    kept = {"cores": 8, "colour": "blue", "gpus": [{"index": 1, "speed": 9}]}
    assert Facts.from_json(kept) == Facts(cores=8, gpus=(Gpu(1),))
    assert Facts.from_json({}) == Facts()


# --- what it offers ---


def test_a_node_offers_what_was_found() -> None:
    facts = recorded("ubuntu-workstation.txt")
    offer = merge(NODE, facts)
    assert (offer.cores, offer.memory_mb, offer.slots) == (16, 64154, 1)
    assert offer.gpus == facts.gpus
    assert offer.capabilities == facts.capabilities


def test_the_inventory_wins_over_what_was_found() -> None:
    entry = NodeEntry("lab1", cores=12, memory_mb=32768, gpus=(1,), slots=3, capabilities=("lab",))
    offer = merge(entry, recorded("ubuntu-workstation.txt"))
    assert (offer.cores, offer.memory_mb, offer.slots) == (12, 32768, 3)
    assert [gpu.model for gpu in offer.gpus] == ["NVIDIA GeForce RTX 3060"]
    assert "lab" in offer.capabilities
    assert "gcc" in offer.capabilities


@pytest.mark.parametrize(
    ("gpus", "found", "offered"),
    [
        (None, (0, 2), (0, 2)),
        (0, (0, 2), ()),
        (1, (0, 2), (0,)),
        (3, (0, 2), (0, 2, 1)),
        (2, (), (0, 1)),
        ((), (0, 2), ()),
        ((2,), (0, 2), (2,)),
        ((5,), (0, 2), (5,)),
    ],
)
def test_gpus_of_the_inventory_are_how_many_or_which(
    gpus: int | tuple[int, ...] | None, found: tuple[int, ...], offered: tuple[int, ...]
) -> None:
    offer = merge(NodeEntry("lab1", gpus=gpus), Facts(gpus=tuple(Gpu(index, "nvidia") for index in found)))
    assert tuple(gpu.index for gpu in offer.gpus) == offered
    assert ("gpu" in offer.capabilities) == bool(offered)


def test_a_capability_written_down_by_a_person_is_never_taken_away() -> None:
    assert merge(NodeEntry("lab1", capabilities=("gpu",)), Facts()).capabilities == ("gpu",)
    assert merge(NodeEntry("lab1", capabilities=("singularity",)), Facts()).capabilities == ("apptainer", "singularity")


def test_a_node_that_could_not_tell_offers_one_core() -> None:
    assert merge(NODE, Facts()).cores == 1
