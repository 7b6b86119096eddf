"""Addresses as people write them: `user@host:port`, ranges of hosts (`lab[01-08]`), and the place of storage."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from distribute_ssh.model.settings import resolve

MOST_IN_A_RANGE = 1000

# OpenSSH fills host and user into ProxyCommand and `Match exec`, which a shell runs: neither may mean anything to one.
_HOST = re.compile(r"[\w:][\w.:%+=,-]*")
_USER = re.compile(r"\w[\w.+@\\-]*")
_BRACKETED = re.compile(r"\[([^\]]*)\](?::(.*))?")
_RANGE = re.compile(r"\[(\d{1,9}(?:[-:]\d{1,9})?(?:,\d{1,9}(?:[-:]\d{1,9})?)*)\]", re.ASCII)
_SFTP = re.compile(r"sftp://([^/]*)(/.*)?", re.DOTALL)
_SCP = re.compile(r"([^/:\s]+):(.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Address:
    """How to reach a machine; what is None is left to ssh and its config file."""

    host: str
    user: str | None = None
    port: int | None = None


def parse_address(text: str) -> Address:
    """Read `host`, `user@host`, `host:port`, `user@host:port`, an IPv6 address, or `[IPv6]:port`. Raises ValueError."""
    user, at, rest = text.rpartition("@")
    if at and not _USER.fullmatch(user):
        raise ValueError(f"`{text}` is not an address: `{user}` cannot be a user's name")
    if bracketed := _BRACKETED.fullmatch(rest):
        host, port = bracketed.groups()
    elif rest.count(":") == 1:
        host, port = rest.split(":")
    else:
        host, port = rest, None
    if not _HOST.fullmatch(host):
        raise ValueError(f"`{text}` is not an address: write the name ssh knows the machine by, or user@host:port")
    if port is None:
        return Address(host, user or None)
    if not re.fullmatch(r"\d{1,5}", port, re.ASCII) or not 1 <= int(port) <= 65535:
        raise ValueError(f"`{text}` is not an address: `{port}` is not a port")
    return Address(host, user or None, int(port))


def expand(text: str) -> list[str]:
    """All names that a range stands for: `lab[01-03]`, `lab[01:03]` or `lab[1,4-6]`; leading zeros are kept.

    A text without a range stands for itself. Raises ValueError for a range that runs backwards or is too long.
    """
    found = _RANGE.search(text)
    if found is None:
        return [text]
    numbers: list[str] = []
    for part in found[1].split(","):
        first, _, last = part.replace(":", "-").partition("-")
        last = last or first
        if int(last) < int(first):
            raise ValueError(f"the range {found[0]} in `{text}` runs backwards")
        if int(last) - int(first) >= MOST_IN_A_RANGE:
            raise ValueError(f"the range {found[0]} in `{text}` is longer than {MOST_IN_A_RANGE}")
        width = len(first) if first.startswith("0") else 0
        numbers += [str(number).zfill(width) for number in range(int(first), int(last) + 1)]
    names = [text[: found.start()] + n + rest for n in numbers for rest in expand(text[found.end() :])]
    if len(names) > MOST_IN_A_RANGE:
        raise ValueError(f"`{text}` stands for more than {MOST_IN_A_RANGE} names")
    return names


def parse_storage(text: str, folder: Path) -> str:
    """Return an absolute folder (a relative one lies in `folder`), or `sftp://[user@]host[:port]/path`.

    Raises ValueError with what to write instead.
    """
    if url := _SFTP.fullmatch(text):
        where, path = url[1], (url[2] or "").rstrip("/")
        if ":" in where.rpartition("@")[0]:
            raise ValueError("storage cannot hold a password: let ssh log in with a key")
        parse_address(where)
        if not path or path.startswith("/~"):
            raise ValueError(f"storage `{text}` needs an absolute path: sftp://{where}/path/to/folder")
        return f"sftp://{where}{path}"
    if "://" in text:
        raise ValueError(f"storage is a folder or sftp://user@host/path, not `{text}`")
    if scp := _SCP.fullmatch(text):
        raise ValueError(f"storage on another machine is written sftp://{scp[1]}/{scp[2].lstrip('/')}")
    return str(resolve(text, folder))
