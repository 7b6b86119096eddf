"""What a node is and has: the script that asks, the facts it brings, what they offer to jobs. Text in, values out."""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from importlib import resources
from typing import TYPE_CHECKING, Any

from distribute_ssh.model import capability

if TYPE_CHECKING:
    from distribute_ssh.model.inventory import NodeEntry

TIME_LIMIT = 60.0
"""Seconds to grant the whole script: a dead network disk can hold the shell itself."""

QUESTION_LIMIT = 20
"""Seconds each question in it may take; they are asked side by side. A sleeping GPU driver needs several."""

NETWORK_FILE_SYSTEMS = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "fuse.sshfs", "lustre", "gpfs", "beegfs", "ceph", "glusterfs"}
    | {"fuse.glusterfs", "afs", "9p", "pvfs2", "panfs"}
)

_HUNG = 137  # 128 + KILL: what our time limit ends a question with
_ABSENT = 127
_OWN_GRAPHICS_MB = 1024


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU. `uuid` is what `CUDA_VISIBLE_DEVICES` and `ROCR_VISIBLE_DEVICES` take, where the driver gives one."""

    index: int
    vendor: str = ""  # "nvidia", "amd", or "" where only the inventory knows of it
    model: str = ""
    memory_mb: int | None = None
    uuid: str | None = None
    used_by: str | None = None  # somebody else's process, when it was last looked at
    used_until: float = 0.0  # until when that is believed


@dataclass(frozen=True, slots=True)
class Facts:
    """What a probe found. None, or an empty value, where the node could not tell."""

    hostname: str = ""
    boot_id: str = ""
    uid: int | None = None
    user: str = ""
    login_shell: str = ""
    os: str = ""
    kernel: str = ""
    machine: str = ""  # x86_64, aarch64
    cores: int | None = None  # physical
    threads: int | None = None  # those we may use
    memory_mb: int | None = None
    memory_available_mb: int | None = None
    load: float | None = None  # 1-minute average
    gpus: tuple[Gpu, ...] = ()

    scratch: str | None = None  # the folder that holds or will hold our room
    no_scratch: str | None = None  # why there is none
    scratch_type: str = ""  # file system
    scratch_free: int | None = None  # bytes
    scratch_inodes_free: int | None = None  # None where the file system does not count them
    scratch_exec: bool | None = None  # False: mounted noexec, compiled programs will not run there

    tools: Mapping[str, str] = field(default_factory=dict)  # of capability.TOOLS, those that answered: version
    probes: Mapping[str, str] = field(default_factory=dict)  # the site's own that said yes: first line of stdout
    broken: Mapping[str, str] = field(default_factory=dict)  # what is there and does not work: a sentence
    has_tar: bool = False
    gnu_tar: bool = False
    find_printf: bool = False
    setsid_fork: bool = False
    sha256sum: bool = False
    awk: bool = False

    systemd: bool = False
    linger: bool | None = None
    user_manager: bool | None = None  # runs now
    kill_user_processes: bool | None = None  # True: what we leave running dies with our session
    remove_ipc: bool | None = None  # True: shared memory of jobs goes with our last session
    cgroup: int | None = None  # 1 or 2
    cgroup_writable: bool = False  # ours to freeze and to kill
    clock: int | None = None  # Unix time there, read last
    asked: str = ""  # fingerprint of the script: with another inventory other things are asked; `parse` leaves it out

    @property
    def capabilities(self) -> tuple[str, ...]:
        """All that was found, by the names that jobs ask for."""
        return capability.offered({*self.tools, *self.probes, *(["gpu"] if self.gpus else [])})

    @property
    def scratch_is_network(self) -> bool:
        """Whether scratch lies on a network file system, which is slow and may be shared with other nodes."""
        return self.scratch_type in NETWORK_FILE_SYSTEMS

    def to_json(self) -> dict[str, Any]:
        """What JSON can hold of it, which is all; `from_json` takes it back."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Facts:
        """Take back what `to_json` gave, also where another version of us wrote it: unknown names are left out."""
        known = _known(cls, values)
        return cls(**known | {"gpus": tuple(Gpu(**_known(Gpu, gpu)) for gpu in known.get("gpus", ()))})


@dataclass(frozen=True, slots=True)
class Offer:
    """What a node gives to jobs: the facts, as far as its inventory entry does not say otherwise."""

    cores: int
    memory_mb: int | None
    gpus: tuple[Gpu, ...]
    capabilities: tuple[str, ...]
    slots: int


def script(entry: NodeEntry, probes: Mapping[str, str]) -> str:
    """Return the POSIX sh text that asks a node everything; `parse` reads what it prints. `probes`: the site's own."""
    lines = [
        *(f"export {name}={shlex.quote(value)}" for name, value in entry.env.items()),  # jobs will find as much
        f"limit={QUESTION_LIMIT}",
        f"wanted_scratch={shlex.quote(entry.scratch or '')}",
        f"python={shlex.quote(entry.python or 'python3')}",
        _text(),
        *(f"ask {shlex.quote('probe:' + name)} {shlex.quote(command)}" for name, command in probes.items()),
        "finish",
    ]
    return "\n".join(lines) + "\n"


@functools.cache
def _text() -> str:
    return resources.files(__package__).joinpath("probe.sh").read_text("utf-8")


def fingerprint(script: str) -> str:
    """A short name for what a script asks."""
    return hashlib.sha256(script.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def parse(text: str | bytes) -> Facts:
    """Read what the script printed; lines that are none of its own are left out.

    Raises ValueError where its last line is missing: half an answer would look like a node that has lost its tools.
    """
    said = _Said(text.decode("utf-8", "replace") if isinstance(text, bytes) else text)
    if said.get("end") != "ok":
        raise ValueError("the probe was cut short before it had asked everything")
    answered = {name: said.answer(name) for name in capability.TOOLS if said.ok(name)}
    memory_mb = _mebibytes(said.get("MemTotal:"))
    whole = _nvidia(said.lines("nvidia-smi"), memory_mb)
    gpus = (*_split(whole, said.lines("nvidia-list")), *amd_gpus(said.lines("rocm-smi")))
    threads = _integer(said.get("threads"))
    # A container or `taskset` may leave us fewer threads than the machine has cores.
    cores = min((n for n in (_integer(said.get("cores")), threads) if n), default=None)
    return Facts(
        hostname=said.get("hostname"),
        boot_id=said.get("boot_id"),
        uid=_integer(said.get("uid")),
        user=said.get("user"),
        login_shell=said.get("login_shell"),
        os=said.get("os").strip("\"'"),
        kernel=said.get("kernel"),
        machine=said.get("machine"),
        cores=cores,
        threads=threads or None,
        memory_mb=memory_mb,
        memory_available_mb=_mebibytes(said.get("MemAvailable:")),
        load=_real(said.get("load")),
        gpus=gpus,
        scratch=said.get("scratch") or None,
        no_scratch=said.get("no_scratch") or None,
        scratch_type=_file_system(said.all("mount")),
        scratch_free=_free(said.get("df"), 1024),
        scratch_inodes_free=_free(said.get("df_inodes"), 1),
        scratch_exec=_yes(said.get("scratch_exec"), "0", "126"),
        tools={name: _version(line) for name, line in answered.items()},
        probes={name: said.answer(f"probe:{name}") for name in said.site_probes() if said.ok(f"probe:{name}")},
        broken=_broken(said, gpus),
        has_tar=said.ok("tar"),
        gnu_tar="GNU tar" in said.answer("tar"),
        find_printf=said.answer("find_printf").startswith("/ "),
        setsid_fork=said.ok("setsid_fork"),
        sha256sum=said.answer("sha256sum").startswith("e3b0c442"),
        awk=said.answer("awk") == "42",
        systemd=said.get("systemd") == "1",
        linger=_yes(said.get("linger"), "1", "0"),
        user_manager=_yes(said.get("user_manager"), "1", "0"),
        kill_user_processes=_yes(said.answer("KillUserProcesses"), "b true", "b false"),
        remove_ipc=_yes(said.answer("RemoveIPC"), "b true", "b false"),
        cgroup=_integer(said.get("cgroup")),
        cgroup_writable=said.get("cgroup_writable") == "1",
        clock=_integer(said.get("clock")),
    )


def merge(entry: NodeEntry, facts: Facts) -> Offer:
    """What the node offers: where its inventory entry says cores, memory or GPUs, that wins over what was found."""
    gpus = facts.gpus
    if isinstance(entry.gpus, int):
        # More than were found: somebody knows of a GPU whose tools we do not.
        others = (index for index in itertools.count() if index not in {gpu.index for gpu in gpus})
        unseen = itertools.islice(others, max(0, entry.gpus - len(gpus)))
        gpus = (*gpus[: entry.gpus], *map(Gpu, unseen))
    elif entry.gpus is not None:
        found = {gpu.index: gpu for gpu in gpus}
        gpus = tuple(found.get(index, Gpu(index)) for index in entry.gpus)
    names = {*facts.tools, *facts.probes, *entry.capabilities}
    memory_mb = entry.memory_mb or facts.memory_mb
    if entry.cluster is not None:  # what its login machine has says nothing of the others, but for its programs
        names.add("slurm")
        gpus = tuple(map(Gpu, range(entry.gpus))) if isinstance(entry.gpus, int) else ()
        memory_mb = entry.memory_mb and entry.memory_mb * entry.slots
    return Offer(
        cores=cores(entry, {"cores": facts.cores}),
        memory_mb=memory_mb,
        gpus=gpus,
        capabilities=capability.offered(names | {"gpu"} if gpus else names),
        slots=entry.slots,
    )


def cores(entry: NodeEntry, facts: Mapping[str, Any]) -> int:
    """How many cores the node gives to jobs, in all; `facts` as the queue keeps them."""
    if entry.cluster is not None:
        return (entry.cores or 1) * entry.slots
    found = entry.cores or facts.get("cores") or 1
    return min(found, entry.core_cap or found)


def slot_cores(cores: int, slots: int) -> int:
    """How many of them a job gets that has a slot and asked for nothing."""
    return max(1, cores // slots)


class _Said:
    """The lines of one answer: single values, and for each question its stdout and exit status."""

    def __init__(self, text: str) -> None:
        self._values: dict[str, list[str]] = {}
        self._out: dict[str, list[str]] = {}
        self._status: dict[str, int] = {}
        for line in text.split("\n"):
            key, _, value = line.partition("\t")
            name, _, rest = value.partition("\t")
            if key == "out":
                self._out.setdefault(name, []).append(rest)
            elif key == "exit" and (status := _integer(rest)) is not None:
                self._status[name] = status
            elif value:
                # What a node says ends up on somebody's terminal.
                self._values.setdefault(key, []).append("".join(c for c in value if c.isprintable()).strip())

    def get(self, key: str) -> str:
        return self._values.get(key, [""])[-1]

    def all(self, key: str) -> list[str]:
        return self._values.get(key, [])

    def lines(self, name: str) -> list[str]:
        return self._out.get(name, [])

    def answer(self, name: str) -> str:
        """The first line that holds anything, of a question that ended well."""
        if not self.ok(name):
            return ""
        shown = ("".join(c for c in line if c.isprintable()).strip() for line in self.lines(name))
        return next((line for line in shown if line), "")

    def ok(self, name: str) -> bool:
        return self._status.get(name) == 0

    def status(self, name: str) -> int | None:
        return self._status.get(name)

    def site_probes(self) -> list[str]:
        return [name.removeprefix("probe:") for name in self._status if name.startswith("probe:")]


def _broken(said: _Said, gpus: tuple[Gpu, ...]) -> dict[str, str]:
    """What a person would expect to work here and does not."""
    found: dict[str, str] = {}
    for name in (*capability.TOOLS, "nvidia-smi", "rocm-smi", *(f"probe:{name}" for name in said.site_probes())):
        status = said.status(name)
        if status == _HUNG:
            found[name.removeprefix("probe:")] = f"did not answer within {QUESTION_LIMIT} s"
        elif status not in (None, 0, _ABSENT) and not name.startswith("probe:"):
            found[name] = f"is there but does not work (exit {status})"
    for name, vendor in (("nvidia-smi", "nvidia"), ("rocm-smi", "amd")):
        if said.status(name) is not None and name not in found and not any(gpu.vendor == vendor for gpu in gpus):
            found[name] = "is there but shows no GPU"
        line = next((line.strip() for line in said.lines(name) if line.strip()), "")
        if name in found and line and not line.startswith("{"):
            found[name] += f": {line[:200]}"
    return found


def _nvidia(lines: Iterable[str], system_memory_mb: int | None) -> tuple[Gpu, ...]:
    """`index, uuid, memory in MiB, model` per line. Errors of single GPUs stand between the lines of the others."""
    found = []
    for line in lines:
        match = re.fullmatch(r"\s*(\d+), *(GPU-[0-9a-fA-F-]+), *([^,]+), *(.+?)\s*", line)
        if match is None:
            continue
        index, uuid, memory, model = match.groups()
        # GB10, GH200 and Jetson say [N/A]: they share the machine's own memory.
        memory_mb = _integer(memory) if not memory.startswith("[") else system_memory_mb
        found.append(Gpu(int(index), "nvidia", model, memory_mb, uuid))
    return tuple(found)


def _split(gpus: Iterable[Gpu], listed: Iterable[str]) -> tuple[Gpu, ...]:
    """The same, where MIG has split one: in its place its parts, since CUDA takes no other name then.

    Those of GPU 0 are numbered from 100, those of GPU 1 from 200.
    """
    parts: dict[str, list[tuple[str, str]]] = {}
    mine: list[tuple[str, str]] = []
    for line in listed:
        if match := re.fullmatch(r"GPU \d+: .*\(UUID: (GPU-[0-9a-fA-F-]+)\)\s*", line):
            mine = parts.setdefault(match[1], [])
        elif match := re.fullmatch(r"\s+MIG (\S+)\s+Device\s+\d+: \(UUID: (MIG-[0-9a-zA-Z/-]+)\)\s*", line):
            mine.append((match[1], match[2]))
    found: list[Gpu] = []
    for gpu in gpus:
        pieces = parts.get(gpu.uuid or "", [])
        found += [] if pieces else [gpu]
        for number, (profile, uuid) in enumerate(pieces):
            size = re.search(r"(\d+)gb", profile)  # 3g.20gb: three of seven slices, 20 GB
            memory_mb = int(size[1]) << 10 if size else None
            found.append(Gpu(100 * (gpu.index + 1) + number, "nvidia", f"{gpu.model} MIG {profile}", memory_mb, uuid))
    return tuple(found)


def amd_gpus(lines: Iterable[str]) -> tuple[Gpu, ...]:
    """The JSON of rocm-smi, folded into lines. Its releases disagree about capitals; warnings may stand before it."""
    text = "".join(lines)
    try:
        cards, _ = json.JSONDecoder().raw_decode(text, text.index("{"))
    except ValueError:
        return ()
    found = []
    for card, values in cards.items():
        number = re.fullmatch(r"card(\d+)", card)
        if number is None or not isinstance(values, dict):
            continue
        lower = {str(key).lower(): str(value) for key, value in values.items()}
        size = _integer(lower.get("vram total memory (b)", ""))
        # What is built into the processor to drive the screen is listed as well, with 64 to 512 MiB.
        if size is not None and size >> 20 < _OWN_GRAPHICS_MB:
            continue
        model = next((lower[key] for key in ("card series", "device name", "card model") if lower.get(key)), "AMD GPU")
        unique = re.fullmatch(r"0x([0-9a-f]+)", lower.get("unique id", ""))
        uuid = f"GPU-{unique[1]}" if unique else None
        found.append(Gpu(int(number[1]), "amd", model, size >> 20 if size else None, uuid))
    return tuple(sorted(found, key=lambda gpu: gpu.index))


def _version(line: str) -> str:
    """`12.2.0` out of `gcc (Debian 12.2.0-14) 12.2.0`; the line itself where there is no number in it."""
    for text in (re.sub(r"\([^)]*\)", " ", line), line):
        if match := re.search(r"\d+(\.\d+)+", text):
            return match[0]
    return line[:60]


def _file_system(mounts: Iterable[str]) -> str:
    """The type of the mount that is nearest to scratch; of two at one place the later lies on top."""
    found, depth = "", -1
    for mount in mounts:
        kind, _, rest = mount.partition(" ")
        where = rest.split(" ", 1)[0].rstrip("/")
        if len(where) >= depth:
            found, depth = kind, len(where)
    return found


def _free(line: str, unit: int) -> int | None:
    """The `available` of a line of `df -P`; None where nothing is counted (btrfs has no number of inodes)."""
    match = re.fullmatch(r".*?\s(\d+)\s+\d+\s+(\d+)\s+\S+\s+/.*", line)
    return int(match[2]) * unit if match and int(match[1]) else None


def _mebibytes(text: str) -> int | None:
    kilobytes = _integer(text.removesuffix("kB"))
    return None if kilobytes is None else kilobytes >> 10


def _integer(text: str) -> int | None:
    return int(text) if re.fullmatch(r"\s*\d{1,18}\s*", text, re.ASCII) else None


def _real(text: str) -> float | None:
    return float(text) if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", text, re.ASCII) else None


def _yes(text: str, yes: str, no: str) -> bool | None:
    return {yes: True, no: False}.get(text)


def _known(cls: type[Any], values: Mapping[str, Any]) -> dict[str, Any]:
    names = {each.name for each in fields(cls)}
    return {name: value for name, value in values.items() if name in names}
