"""Capabilities: what a node has and a job needs, compared as exact, case-sensitive words."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from distribute_ssh.model.resources import Resources

TOOLS = ("python3", "gcc", "gfortran", "make", "cmake", "mpi", "apptainer", "singularity")
"""What is looked for on every node; each that answers is a capability of that name. So is `gpu`, where one is seen."""

_LONGEST = 100

# A kind of batch needs its interpreter, whether its author thought of saying so or not: without this an apptainer
# batch that asks for nothing is sent to a node that cannot run it.
_IMPLIED: dict[str, frozenset[str]] = {
    "python": frozenset({"python3"}),
    "apptainer": frozenset({"apptainer"}),
}

# Two names of one program: the project was renamed, and both jobs files and nodes still carry either.
_ALIASES = frozenset({"apptainer", "singularity"})


def check(name: str) -> str | None:
    """What is wrong with a capability's name, or None. Any word will do: sites have names of their own for things."""
    if not name:
        return "a capability cannot be empty"
    if not name.isprintable() or any(c.isspace() for c in name):
        return "a capability is one word, without spaces or control characters"
    if len(name.encode()) > _LONGEST:
        return f"a capability has at most {_LONGEST} bytes"
    return None


def normalise(names: Iterable[str]) -> tuple[str, ...]:
    """Each name once, in alphabetical order."""
    return tuple(sorted(set(names)))


def needed(kind: str, asked: Iterable[str] = (), resources: Resources | None = None) -> tuple[str, ...]:
    """All that a batch of `kind` (`python` or `apptainer`) needs, or those of its jobs that ask for these resources.

    It is what was asked for and what kind and resources imply.
    """
    return normalise({*asked, *_IMPLIED[kind], *(["gpu"] if resources and resources.gpus else [])})


def offered(found: Iterable[str]) -> tuple[str, ...]:
    """All that a node with `found` offers: with singularity it runs what asks for apptainer, and the reverse."""
    names = set(found)
    return normalise(names | _ALIASES if names & _ALIASES else names)


def missing(needed: Collection[str], offered: Collection[str]) -> tuple[str, ...]:
    """What of `needed` is not in `offered`, in alphabetical order."""
    return normalise(set(needed) - set(offered))
