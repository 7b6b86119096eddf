"""What `ssh NODE` would do: OpenSSH's own answer (`ssh -G`), read into the few things we need.

asyncssh's parser skips keywords it does not know in silence (StrictHostKeyChecking among them), fails on spellings
that OpenSSH accepts (`ServerAliveInterval 30s`, a comment after an option), and takes `UserKnownHostsFile none` for
"do not check". So OpenSSH reads its files and asyncssh is told explicitly.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from distribute_ssh.errors import HostKeyError, LoginError, UsageError

ASK_LIMIT = 10.0  # seconds: `Match exec` and name canonicalisation may run something


@dataclass(frozen=True, slots=True)
class Target:
    """One machine as OpenSSH would reach it."""

    alias: str
    hostname: str
    port: int
    user: str
    key_name: str  # the name its key stands under in known_hosts files
    identities: tuple[Path, ...]
    certificates: tuple[Path, ...]
    identities_only: bool
    agent: str | None  # path of the agent's socket; "" none; None: $SSH_AUTH_SOCK
    known_hosts: tuple[Path, ...]
    jumps: tuple[str, ...]
    proxy_command: str | None
    alive_interval: float
    alive_count: int
    connect_timeout: float


def parse(alias: str, text: str, *, home: Path, login: str, environ: Mapping[str, str]) -> Target:
    """Read what `ssh -G alias` printed for the user `login`, whose home is `home`.

    Raises HostKeyError for a configuration that would not check host keys.
    """
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        keyword, _, value = line.strip().partition(" ")
        found.setdefault(keyword.lower(), []).append(value)

    def one(keyword: str, default: str = "") -> str:
        return found.get(keyword, [default])[0]

    hostname = one("hostname", alias)
    port = int(one("port", "22"))
    known: list[Path] = []
    for keyword in ("userknownhostsfile", "globalknownhostsfile"):
        for name in one(keyword).split():
            if name == "none":
                if keyword == "userknownhostsfile":
                    raise HostKeyError(
                        f"the ssh configuration for {alias} says `UserKnownHostsFile none`",
                        hint="we always check host keys: remove that line, or name a file",
                    )
                continue
            known.append(_expand(name, home))
    key_name = one("hostkeyalias")
    if key_name in ("", "none"):
        key_name = hostname if port == 22 else f"[{hostname}]:{port}"
    jump = one("proxyjump")
    command = one("proxycommand")
    agent = one("identityagent")
    interval = _seconds(one("serveraliveinterval"))
    values = {"%": "%", "h": hostname, "n": alias, "p": str(port), "r": one("user"), "u": login, "d": str(home)}

    def files(keyword: str) -> tuple[Path, ...]:
        # `ssh -G` prints these as they were written.
        names = [_variables(_tokens(name, values), environ) for name in found.get(keyword, []) if name != "none"]
        return tuple(_expand(name, home) for name in names)

    return Target(
        alias=alias,
        hostname=hostname,
        port=port,
        user=one("user"),
        key_name=key_name,
        identities=files("identityfile"),
        certificates=files("certificatefile"),
        identities_only=one("identitiesonly") == "yes",
        agent=_agent(agent, values, home, environ),
        known_hosts=tuple(known),
        jumps=() if jump in ("", "none") else tuple(part.strip() for part in jump.split(",")),
        proxy_command=None if command in ("", "none") else _tokens(command, values),
        # A peer that is gone must be noticed within a minute, whatever else is configured: 12 s x (3 + 1).
        alive_interval=min(interval or 12.0, 12.0),
        alive_count=3,
        connect_timeout=min(_seconds(one("connecttimeout")) or 20.0, 60.0),
    )


def _expand(name: str, home: Path) -> Path:
    return home / name[2:] if name.startswith("~/") else Path(name)


def _seconds(text: str) -> float:
    return float(text) if text.isdigit() else 0.0


def _agent(text: str, values: Mapping[str, str], home: Path, environ: Mapping[str, str]) -> str | None:
    if text in ("", "SSH_AUTH_SOCK"):
        return None
    if text == "none":
        return ""
    if text.startswith("$") and not text.startswith("${"):
        return environ.get(text[1:], "")
    return str(_expand(_variables(_tokens(text, values), environ), home))


def _tokens(text: str, values: Mapping[str, str]) -> str:
    return re.sub(r"%(.)", lambda found: values.get(found[1], found[0]), text)


def _variables(text: str, environ: Mapping[str, str]) -> str:
    return re.sub(r"\$\{([^}]*)\}", lambda found: environ.get(found[1], found[0]), text)


def split_host(text: str) -> tuple[str | None, str, int | None]:
    """Read `[user@]host[:port]` or `ssh://[user@]host[:port]`, as ProxyJump and the inventory allow it."""
    text = text.removeprefix("ssh://")
    user, at, rest = text.rpartition("@")
    bracketed = re.fullmatch(r"\[([^\]]+)\](?::(\d+))?", rest)
    plain = re.fullmatch(r"([^:]+)(?::(\d+))?", rest)
    if bracketed or plain:
        host, port = (bracketed or plain).groups()  # type: ignore[union-attr]  # one of the two matched
    else:
        host, port = rest, None  # an IPv6 address without brackets
    return (user if at else None), host, int(port) if port else None


async def resolve(host: str, *, user: str | None = None, port: int | None = None, config: Path | None = None) -> Target:
    """Ask `ssh -G` how `host` is reached.

    Raises UsageError where the configuration is broken (with OpenSSH's own words) and LoginError where there is no
    `ssh` program to ask.
    """
    argv = ["ssh", "-G"]
    if config is not None:
        argv += ["-F", str(config)]
    if user is not None:
        argv += ["-l", user]
    if port is not None:
        argv += ["-p", str(port)]
    try:
        asked = await asyncio.create_subprocess_exec(
            *argv, "--", host,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
    except FileNotFoundError:
        raise LoginError(
            "the program `ssh` is not installed here", hint="install OpenSSH's client: apt install openssh-client"
        ) from None
    try:
        async with asyncio.timeout(ASK_LIMIT):
            out, err = await asked.communicate()
    except TimeoutError:
        asked.kill()
        await asked.wait()
        raise UsageError(f"`ssh -G {host}` did not answer in {ASK_LIMIT:.0f} s (a `Match exec` that hangs?)") from None
    if asked.returncode != 0:
        raise UsageError(f"`ssh -G {host}` says: {err.decode(errors='replace').strip()}")
    account = pwd.getpwuid(os.getuid())  # as OpenSSH does, whatever $HOME says
    home, login = Path(account.pw_dir), account.pw_name
    return parse(host, out.decode(errors="replace"), home=home, login=login, environ=os.environ)


def with_identity(target: Target, identity: Path | None) -> Target:
    """Use one dedicated key and no agent: what cron has, and what a server with MaxAuthTries wants."""
    if identity is None:
        return target
    return replace(target, identities=(identity,), certificates=(), identities_only=True, agent="")


def existing(paths: Iterable[Path]) -> list[Path]:
    """The files that are there: OpenSSH passes over the others, asyncssh would stop."""
    return [path for path in paths if path.is_file()]
