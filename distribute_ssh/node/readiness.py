"""What a node has at the very moment: the script that asks just before a start, and what its answer says. Pure."""

from __future__ import annotations

import functools
import re
import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from importlib import resources

from distribute_ssh.node.lease import printable
from distribute_ssh.node.probe import Gpu, amd_gpus
from distribute_ssh.plan.readiness import Seen

TIME_LIMIT = 40.0
"""Seconds to grant the whole script: the tools of a sleeping or dying GPU may take all the time they are given."""

WINDOW = 0.3
"""Seconds over which others' use of the processors is seen."""

_WHOLE = re.compile(r"[0-9]{1,15}", re.ASCII)
_TOOL = {"nvidia": "nvidia-smi", "amd": "rocm-smi"}


def script(queue: str, root: str, env: Mapping[str, str], gpus: Collection[Gpu], *, processors: bool) -> str:
    """The POSIX sh text that asks about these GPUs and, where it matters, about processors.

    `env`: what the inventory sets for the node; the tools may be found by its PATH alone.
    """
    vendors = sorted({gpu.vendor for gpu in gpus} & _TOOL.keys())
    return "\n".join(
        [
            *(f"export {name}={shlex.quote(value)}" for name, value in env.items()),
            f"cd {shlex.quote(root)} || exit 7",
            f"queue={queue} gpus={shlex.quote(' '.join(vendors))} window={WINDOW if processors else 0}",
            _text(),
        ]
    )


@functools.cache
def _text() -> str:
    return resources.files(__package__).joinpath("readiness.sh").read_text("utf-8")


def parse(text: str, gpus: Sequence[Gpu]) -> Seen:
    """Read what the script printed about a node with these GPUs.

    Raises ValueError where its last line is missing: half an answer would look like a node that has lost its GPUs.
    """
    lines = text.splitlines()
    if "end ok" not in lines:
        raise ValueError("could not be asked what it has now")
    said: dict[str, list[str]] = {}
    for line in lines:
        key, _, rest = line.partition(" ")
        said.setdefault(key, []).append(rest)
    owners = dict(_owners(said.get("process", ()))) | {line.strip(): None for line in said.get("mine", ())}
    used: dict[int, str] = {}
    gone: dict[int, str] = {}
    silent: dict[int, str] = {}
    for vendor, holders in (("nvidia", _nvidia_used), ("amd", _amd_used)):
        mine = [gpu for gpu in gpus if gpu.vendor == vendor]
        there = _there(vendor, said)
        if not mine or there is None:
            continue
        if trouble := _silence(vendor, said, there):
            silent |= {gpu.index: trouble for gpu in mine}
            continue
        # Parts of a GPU (MIG) are not listed among whole ones.
        whole = [gpu for gpu in mine if gpu.uuid and gpu.uuid.startswith("GPU-")]
        gone |= {gpu.index: gpu.model or vendor for gpu in whole if gpu.uuid not in there}
        used |= holders(said.get(f"{vendor}-used", ()), mine, owners)
    return Seen(
        memory_mb=_mebibytes(said, "MemTotal:"),
        available_mb=_mebibytes(said, "MemAvailable:"),
        ours_mb=_mebibytes(said, "ours") or 0,
        scratch_mb=_free(said.get("df", [""])[-1]),
        others=_hundredths(said.get("others", [""])[-1]),
        used=used,
        gone=gone,
        silent=silent,
    )


def _there(vendor: str, said: Mapping[str, Sequence[str]]) -> set[str] | None:
    """The UUIDs of the GPUs that answer; None: they were not asked."""
    if _status(f"{vendor}-there", said) is None:
        return None
    lines = said.get(f"{vendor}-there", ())
    if vendor == "nvidia":
        return {line.strip() for line in lines if re.fullmatch(r"\s*GPU-[0-9a-fA-F-]+\s*", line)}
    return {gpu.uuid for gpu in amd_gpus(lines) if gpu.uuid}


def _status(name: str, said: Mapping[str, Sequence[str]]) -> int | None:
    answers = (words.split() for words in said.get("exit", ()))
    return next(
        (int(words[1]) for words in answers if len(words) == 2 and words[0] == name and words[1].isdecimal()), None
    )


def _silence(vendor: str, said: Mapping[str, Sequence[str]], there: Collection[str]) -> str | None:
    """What is wrong with the tool of a vendor as a whole; None: nothing is."""
    if there:
        # Where one of its GPUs is lost, nvidia-smi says so between the others and ends with an error.
        return None
    line = next((line.strip() for line in said.get(f"{vendor}-there", ()) if line.strip()), "")
    status = _status(f"{vendor}-there", said)
    if status == 0 and vendor == "amd":
        return None  # an old rocm-smi knows no unique ids
    return f"{_TOOL[vendor]}: {printable(line)[:120]}" if line else f"{_TOOL[vendor]} ended with {status}"


def _owners(lines: Sequence[str]) -> Iterator[tuple[str, tuple[str, str]]]:
    """Of processes of others: whose each is, and its name."""
    for line in lines:
        number, _, rest = line.partition(" ")
        owner, _, name = rest.partition(" ")
        yield number, (printable(owner)[:40], printable(name)[:40])


_Owners = Mapping[str, tuple[str, str] | None]
"""Of processes, by number: user and name; None: it is one of our jobs'. What is not there cannot be seen by us."""


def _nvidia_used(lines: Sequence[str], gpus: Sequence[Gpu], owners: _Owners) -> dict[int, str]:
    by_uuid = {gpu.uuid: gpu.index for gpu in gpus}
    found: dict[int, list[str]] = {}
    for line in lines:
        words = [word.strip() for word in line.split(",", 3)]
        if len(words) != 4 or words[0] not in by_uuid or not _WHOLE.fullmatch(words[1]):
            continue
        owner = owners.get(words[1], ("", printable(words[3].rpartition("/")[2])[:40]))
        if owner is not None:
            amount = f"{int(words[2]) / 1024:.1f} GiB" if _WHOLE.fullmatch(words[2]) else ""
            found.setdefault(by_uuid[words[0]], []).append(_who(owner, amount))
    return {index: _several(who) for index, who in found.items()}


def _amd_used(lines: Sequence[str], gpus: Sequence[Gpu], owners: _Owners) -> dict[int, str]:
    """`PID 123 is using 2 DRM device(s):`, and their numbers in the line after it."""
    indexes = {gpu.index for gpu in gpus}
    found: dict[int, list[str]] = {}
    owner: tuple[str, str] | None = None
    for line in lines:
        if match := re.match(r"\s*PID\s+(\d+)\s+is using", line):
            owner = owners.get(match[1], ("", ""))
        elif owner is not None and re.fullmatch(r"[\s\d,]+", line):
            for number in indexes & set(map(int, re.findall(r"\d{1,4}", line))):
                found.setdefault(number, []).append(_who(owner, ""))
    return {index: _several(who) for index, who in found.items()}


def _several(who: Sequence[str]) -> str:
    first, *more = sorted(set(who))
    return f"{first} and {len(more)} more" if more else first


def _who(owner: tuple[str, str], amount: str) -> str:
    """`ann (python3, 12.3 GiB)`."""
    user, name = owner
    about = ", ".join(part for part in (name, amount) if part)
    return f"{user or 'somebody'} ({about})" if about else user or "somebody"


def _mebibytes(said: Mapping[str, Sequence[str]], key: str) -> int | None:
    text = said.get(key, [""])[-1].strip()
    return int(text) >> 10 if _WHOLE.fullmatch(text) else None


def _free(line: str) -> int | None:
    match = re.fullmatch(r".*?\s(\d+)\s+\d+\s+(\d+)\s+\S+\s+/.*", line)
    return int(match[2]) >> 10 if match and int(match[1]) else None


def _hundredths(text: str) -> float | None:
    return int(text) / 100 if _WHOLE.fullmatch(text.strip()) else None
