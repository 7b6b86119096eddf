"""Where things are on this machine (XDG folders, `$DISTRIBUTE_HOME`), and the person's own config file."""

from __future__ import annotations

import getpass
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from distribute_ssh.errors import UsageError

if TYPE_CHECKING:
    from distribute_ssh.model.address import Address
    from distribute_ssh.model.notify import Notify
    from distribute_ssh.model.yamltext import Checker, Node

SYSTEM_INVENTORY = Path("/etc/distribute/inventory.yaml")
GATEWAY = "distribute gateway"
_LONGEST_USER = 100


@dataclass(frozen=True, slots=True)
class Places:
    """The folders and files we keep or read here; none of them needs to exist yet."""

    state: Path
    config_file: Path
    data: Path
    ssh_config: Path | None = None  # $DISTRIBUTE_SSH_CONFIG: read as `ssh -F` does

    @classmethod
    def of(cls, env: Mapping[str, str], home: Path) -> Places:
        """The places for an environment and a home folder. Raises UsageError for a relative `$DISTRIBUTE_HOME`."""
        own = env.get("DISTRIBUTE_HOME")
        if own and not Path(own).is_absolute():
            # Taken from wherever one happens to stand, each folder would get a queue of its own.
            raise UsageError(f"DISTRIBUTE_HOME is `{own}`, which is not an absolute path", hint="write it from / on")
        config = _xdg(env, "XDG_CONFIG_HOME", home / ".config")
        return cls(
            state=Path(own) if own else _xdg(env, "XDG_STATE_HOME", home / ".local" / "state"),
            config_file=_path(env.get("DISTRIBUTE_CONFIG")) or config / "config.yaml",
            data=_xdg(env, "XDG_DATA_HOME", home / ".local" / "share"),
            ssh_config=_path(env.get("DISTRIBUTE_SSH_CONFIG")),
        )

    @classmethod
    def here(cls) -> Places:
        """The places of this process."""
        return cls.of(os.environ, Path.home())

    @property
    def config(self) -> Path:
        """The folder of the config file."""
        return self.config_file.parent

    @property
    def inventory(self) -> Path:
        """The person's own inventory."""
        return self.config / "inventory.yaml"

    @property
    def database(self) -> Path:
        """The queue."""
        return self.state / "queue.db"

    @property
    def lock(self) -> Path:
        """Held by the coordinator."""
        return self.state / "lock"

    @property
    def known_hosts(self) -> Path:
        """The host keys that `distribute nodes trust` has taken in."""
        return self.state / "known_hosts"

    @property
    def spool(self) -> Path:
        """What submitters sent, by content, until no batch needs it."""
        return self.state / "spool"

    @property
    def storage(self) -> Path:
        """Where results go when the inventory names no storage."""
        return self.data / "storage"

    def describe(self) -> dict[str, str]:
        """All of it by name, for `distribute where`."""
        names = ("config_file", "inventory", "state", "database", "lock", "known_hosts", "spool", "storage")
        shown = {name: str(getattr(self, name)) for name in names}
        return shown | ({"ssh_config": str(self.ssh_config)} if self.ssh_config else {})


@dataclass(frozen=True, slots=True)
class Head:
    """A head to act on: how ssh reaches it, and what its gateway is called there (a forced command does not ask)."""

    address: Address
    command: str = GATEWAY

    @classmethod
    def parse(cls, text: str) -> Head:
        """Read `[USER@]HOST[:PORT]`. Raises UsageError."""
        from distribute_ssh.model.address import parse_address

        return cls(parse_address(text))

    @property
    def name(self) -> str:
        """For messages: `ana@head`."""
        at = self.address
        return (f"{at.user}@" if at.user else "") + at.host + (f":{at.port}" if at.port else "")


@dataclass(frozen=True, slots=True)
class Config:
    """What the config file says."""

    user: str  # the submitter's name, as shown to others
    inventory: Path | None = None
    head: Head | None = None  # where commands act, if not here
    notify: Notify | None = None  # whom this head tells, and how; None: nothing is said of it


def read_config(places: Places, login: str | None = None) -> Config:
    """Read the config file, if there is one. Where it names no user, `login` (default: of this process) submits.

    Raises FileError.
    """
    login = login or login_name()
    try:
        text = places.config_file.read_bytes()
    except FileNotFoundError:
        return Config(user=login)
    except OSError as error:
        raise UsageError(f"the config file {places.config_file} cannot be read: {error.strerror}") from error
    from distribute_ssh.model import yamltext  # yaml is slow to import, and most people have no config file
    from distribute_ssh.model.notify import read_notify

    file = str(places.config_file)
    check = yamltext.Checker(file)
    root = yamltext.load(text, file) if text.strip() else None
    keys = {} if root is None else check.mapping(root, "", optional=("inventory", "user", "head", "notify"))
    user = check.line(keys.get("user"), "user")
    if user is not None and len(user) > _LONGEST_USER:
        check.problem(keys["user"], "user", f"has more than {_LONGEST_USER} characters")
    inventory = check.parsed(keys.get("inventory"), "inventory", lambda text: resolve(text, places.config))
    head = _head(check, keys.get("head"))
    notify = read_notify(check, keys.get("notify"), lambda text: resolve(text, places.config))
    check.finish()
    return Config(user=user or login, inventory=inventory, head=head, notify=notify)


def _head(check: Checker, node: Node | None) -> Head | None:
    """Read `USER@HOST`, or `{host: USER@HOST, command: PROGRAM}`."""
    from distribute_ssh.model.yamltext import Mapping as YamlMapping

    if not isinstance(node, YamlMapping):
        return check.parsed(node, "head", Head.parse)
    keys = check.mapping(node, "head", required=("host",), optional=("command",))
    head = check.parsed(keys.get("host"), "head.host", Head.parse)
    command = check.line(keys.get("command"), "head.command")
    return replace(head, command=command) if head and command else head


def resolve(text: str, folder: Path) -> Path:
    """Return the path a YAML file in `folder` means: absolute, below home (`~/...`), or beside that file.

    Raises ValueError for the home of somebody who has no account here.
    """
    try:
        return folder.absolute() / Path(text).expanduser()
    except RuntimeError:
        raise ValueError(f"`{text}` begins with the home folder of a user this machine does not know") from None


def login_name() -> str:
    """Who runs this process; a number where the account has no name (containers)."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid-{os.getuid()}"


def _xdg(env: Mapping[str, str], variable: str, default: Path) -> Path:
    """Our folder in an XDG base folder; a relative one is invalid and to be ignored, says their specification."""
    base = env.get(variable, "")
    return (Path(base) if base.startswith("/") else default) / "distribute"


def _path(text: str | None) -> Path | None:
    return Path(text).absolute() if text else None
