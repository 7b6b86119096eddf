"""The inventory: which nodes there are, how to reach them, what they offer, and where results go."""

from __future__ import annotations

import difflib
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distribute_ssh.errors import NoMatchError, UsageError
from distribute_ssh.model import capability, cluster
from distribute_ssh.model.address import Address, expand, parse_address, parse_storage
from distribute_ssh.model.cluster import Cluster
from distribute_ssh.model.hours import parse_hours
from distribute_ssh.model.names import check_name, key
from distribute_ssh.model.owner import SIGNS
from distribute_ssh.model.settings import SYSTEM_INVENTORY, Places, resolve
from distribute_ssh.model.units import parse_duration, parse_size
from distribute_ssh.model.yamltext import Checker, Node, Scalar, Sequence, is_null, join, load
from distribute_ssh.model.yamltext import Mapping as YamlMapping

LOST_AFTER = 900.0
LONGEST_PAUSE = 4 * 3600.0
SHARED_FROM = 64 << 20
IONICE = ("idle", "best-effort")

_TOP = ("storage", "nodes", "defaults", "groups", "probes", "ssh_config", "lost_after", "limits", "overflow")
_SHARED = (
    *("user", "port", "identity", "slots", "scratch", "capabilities", "cores", "memory", "gpus"),
    *("python", "env", "max_pause", "owners", "owner", "hours", "gentle", "share_inputs", "enabled", "reason"),
)
_OWN = ("name", "host", "connection", *cluster.KEYS)
_OWNER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}", re.ASCII)  # a login name
_ORIGINAL = ("ip", "transport_port", "keepalive_port", "cancel_port")  # of the original tool's nodes file
_HINTS = {
    **dict.fromkeys(("hostname", "address", "ansible_host"), "write `host:`"),
    **dict.fromkeys(("labels", "tags"), "write `capabilities:`"),
    **dict.fromkeys(("cpus", "cpu", "threads"), "write `cores:`"),
    **dict.fromkeys(("ram", "mem", "memory_mb"), "write `memory: 64G`"),
    **dict.fromkeys(("max_jobs", "jobs"), "write `slots:`"),
    **dict.fromkeys(("identity_file", "key", "ssh_key"), "write `identity:`"),
    **dict.fromkeys(("hosts", "machines"), "write `nodes:`"),
}


@dataclass(frozen=True)
class NodeEntry:
    """What the inventory says of one node. None: ask the node, or leave it to ssh."""

    name: str
    host: str = ""  # what ssh is asked for; the name, if left out
    user: str | None = None
    port: int | None = None
    connection: str = "ssh"  # or "local": this machine, without sshd
    cluster: Cluster | None = None  # it is the login machine of one; None: it runs jobs itself
    identity: str | None = None  # a private key of its own, for where no agent is
    slots: int = 1
    scratch: str | None = None
    capabilities: tuple[str, ...] = ()  # beside what the probe finds
    cores: int | None = None
    memory_mb: int | None = None
    gpus: int | tuple[int, ...] | None = None  # how many, or which
    python: str | None = None
    env: Mapping[str, str] = field(default_factory=dict, hash=False)
    max_pause: float = LONGEST_PAUSE  # seconds a pause may take at most
    pause_when_active: float = 0.0  # seconds the owner has to be quiet before jobs go on; 0: nobody looks
    move_after: float = 0.0  # seconds of pause after which a job may be attempted elsewhere; 0: never
    watch: tuple[str, ...] = ()  # further files on the node that its owner uses
    ignore: tuple[str, ...] = ()  # kinds of readings that say nothing of its owner
    hours: str | None = None  # when jobs may run, as `model.hours` reads it
    nice: int = 0
    ionice: str | None = None  # a class
    core_cap: int | None = None  # cores on which jobs have to stay
    owners: tuple[str, ...] = ()  # login names there: obeyed at its desk also when they are not logged in
    share_inputs: int = SHARED_FROM  # bytes from which on it gets inputs from other nodes, and gives them; 0: never
    enabled: bool = True
    reason: str | None = None

    def __post_init__(self) -> None:
        if not self.host:
            object.__setattr__(self, "host", self.name)


@dataclass(frozen=True)
class Limits:
    """What one person may have on the head who comes through its gateway."""

    spool: int = 1 << 40  # bytes of files, of batches that are not done
    files: int = 100_000  # that one batch may name
    jobs: int = 200_000  # that wait in the queue


@dataclass(frozen=True)
class Inventory:
    """All nodes and what holds for all of them."""

    nodes: tuple[NodeEntry, ...]
    storage: str  # an absolute folder, or sftp://[user@]host[:port]/path
    probes: Mapping[str, str] = field(default_factory=dict, hash=False)  # capability: command
    ssh_config: Path | None = None  # read instead of the usual ones, as `ssh -F` does
    lost_after: float = LOST_AFTER  # seconds of silence after which a job may be attempted elsewhere
    limits: Limits = Limits()
    overflow: Mapping[str, float] = field(default_factory=dict, hash=False)  # node: seconds jobs wait for it at least
    source: Path | None = None
    warnings: tuple[str, ...] = ()

    def node(self, name: str) -> NodeEntry:
        """The node of that name, whatever its case. Raises NoMatchError, which names the ones there are."""
        known = {key(node.name): node for node in self.nodes}
        if found := known.get(key(name)):
            return found
        near = difflib.get_close_matches(key(name), known, n=1)
        hint = f"did you mean {known[near[0]].name}? " if near else ""
        names = ", ".join(node.name for node in self.nodes) or "none"
        raise NoMatchError(f"no node is named {name!r}", hint=f"{hint}nodes: {names}")


def find(explicit: str | None, env: Mapping[str, str], places: Places, configured: Path | None = None) -> Path | None:
    """Which inventory holds, or None where there is none.

    In this order: `--inventory`, `$DISTRIBUTE_INVENTORY`, `inventory:` of the config file (`configured`),
    `inventory.yaml` beside that file, the one in /etc. Raises UsageError where one that was asked for is not there.
    """
    asked = {"--inventory": explicit, "DISTRIBUTE_INVENTORY": env.get("DISTRIBUTE_INVENTORY"), "config": configured}
    for origin, text in asked.items():
        if not text:
            continue
        path = Path(text).absolute()
        if not path.exists():
            said = f"{places.config_file} (inventory:)" if origin == "config" else origin
            raise UsageError(f"there is no inventory {path}", hint=f"it was named by {said}")
        return path
    return next((path for path in (places.inventory, SYSTEM_INVENTORY) if path.exists()), None)


def default(places: Places | None = None) -> Inventory:
    """Where no inventory is found: one node, this machine, and storage below the data folder."""
    places = places or Places.here()
    name = platform.node().partition(".")[0]
    node = NodeEntry(name if check_name(name) is None else "here", connection="local")
    return Inventory(nodes=(node,), storage=str(places.storage), ssh_config=places.ssh_config)


def read(path: Path, places: Places | None = None) -> Inventory:
    """Read an inventory, or the nodes file of the original tool.

    `places` (default: of this process) gives what the file leaves out. Raises FileError with all that is wrong in it,
    UsageError where it cannot be read.
    """
    places = places or Places.here()
    path = path.absolute()
    try:
        text = path.read_bytes()
    except OSError as error:
        raise UsageError(f"the inventory {path} cannot be read: {error.strerror}") from error
    return _Reader(path, places).read(load(text, str(path)))


class _Reader:
    """Reads one file; its problems are collected and raised together."""

    def __init__(self, path: Path, places: Places) -> None:
        self.path = path
        self.places = places
        self.check = Checker(str(path))
        self.nodes: dict[str, NodeEntry] = {}  # by name, without regard to case
        self.machines: dict[tuple[Any, ...], str] = {}
        self.warnings: dict[str, None] = {}

    def read(self, tree: Node) -> Inventory:
        check = self.check
        top = check.mapping(tree, "", optional=_TOP, hints=_HINTS)
        if isinstance(tree, YamlMapping) and "nodes" not in top and "groups" not in top:
            check.problem(tree, "", "lacks the key `nodes`", "add `nodes: [lab1, lab2]`")
        storage = check.parsed(top.get("storage"), "storage", lambda text: parse_storage(text, self.path.parent))
        defaults = self.shared(top.get("defaults"), "defaults")
        self.some(top.get("nodes"), "nodes", defaults)
        for name, node in check.entries(top.get("groups"), "groups"):
            group = join("groups", name.text)
            keys = check.mapping(node, group, required=("nodes",), optional=("vars",), hints=_HINTS)
            self.some(
                keys.get("nodes"), f"{group}.nodes", _over(defaults, self.shared(keys.get("vars"), f"{group}.vars"))
            )
        inventory = Inventory(
            nodes=tuple(self.nodes.values()),
            storage=storage or str(self.places.storage),
            probes=self.probes(top.get("probes")),
            # What is set for one session of work wins over what the file says for all.
            ssh_config=self.places.ssh_config or check.parsed(top.get("ssh_config"), "ssh_config", self.file),
            lost_after=check.parsed(top.get("lost_after"), "lost_after", _patience) or LOST_AFTER,
            limits=self.limits(top.get("limits")),
            overflow=cluster.read_overflow(check, top.get("overflow"), [node.name for node in self.nodes.values()]),
            source=self.path,
            warnings=tuple(self.warnings),
        )
        check.finish()
        return inventory

    # --- nodes ---

    def some(self, node: Node | None, path: str, shared: Mapping[str, Any]) -> None:
        """A list of names, addresses and mappings; or a mapping of name to settings."""
        if isinstance(node, YamlMapping):
            for name, value in node.entries:
                self.item(name, None if is_null(value) else value, join(path, name.text), shared)
            return
        for where, item in self.check.items(node, path):
            if isinstance(item, Scalar):
                self.item(item, None, where, shared)
            else:
                self.item(None, item, where, shared)

    def item(self, name: Scalar | None, node: Node | None, path: str, shared: Mapping[str, Any]) -> None:
        """One item of `nodes`; with a range in it, it stands for several."""
        check = self.check
        own = _OWN if name is None else _OWN[1:]
        keys = check.mapping(node, path, optional=(*own, *_SHARED, *_ORIGINAL), hints=_HINTS)
        settings = self.settings(keys, path) | cluster.read(check, keys, path)
        settings["connection"] = check.choice(keys.get("connection"), f"{path}.connection", ("ssh", "local")) or "ssh"
        self.original(keys, path)
        if settings["connection"] == "local":
            for each in ("host", "ip", "user", "port", "identity"):
                if each in keys:
                    check.problem(keys[each], f"{path}.{each}", "means nothing with `connection: local`", "remove it")
        named = (name, path) if name is not None else (keys.get("name"), f"{path}.name")
        hosted = (keys.get("host") or keys.get("ip"), f"{path}.{'host' if 'host' in keys else 'ip'}")
        names, hosts = self.expanded(*named), self.expanded(*hosted)
        # A name alone is the address as well, and an address alone gives the name.
        at, where = named if hosted[0] is None else hosted
        if at is None:
            if isinstance(node, YamlMapping):
                check.problem(node, path, "lacks the key `name`", "add `name:`")
        elif names and hosts and len(names) != len(hosts):
            what = f"stands for {len(hosts)} machines, and the name for {len(names)}"
            check.problem(at, where, what, "write a range of the same length in both")
        else:
            for number, text in enumerate(hosts or names):
                address = check.parsed(Scalar(text, False, at.mark), where, parse_address)
                if address is not None:
                    own_name = names[number] if names and hosts else address.host
                    self.add(own_name, address, _over(shared, settings), at, where)

    def add(self, name: str, address: Address, settings: Mapping[str, Any], at: Node, path: str) -> None:
        """One node, unless something speaks against it."""
        settings = dict(settings)
        if "cluster" in settings:
            settings = {each: value for each, value in settings.items() if each not in cluster.OF_A_DESK}
        machine: tuple[Any, ...]
        if settings["connection"] == "local":
            settings |= {"user": None, "port": None, "identity": None}
            machine = ("local", settings.get("scratch"))
        else:
            settings |= {each: value for each in ("user", "port") if (value := getattr(address, each)) is not None}
            machine = (key(address.host), *(settings.get(each) for each in ("user", "port", "scratch")))
        if wrong := check_name(name):
            self.check.problem(at, path, f"{name!r} cannot name a node: {wrong}", "give it a `name:` beside `host:`")
        elif taken := self.nodes.get(key(name)):
            self.check.problem(at, path, f"there is a node {taken.name!r} already", "names differ in more than case")
        elif first := self.machines.get(machine):
            # Each would take the other's jobs for stray ones of its own.
            what = f"is the same machine, user and scratch folder as the node {first!r}"
            self.check.problem(at, path, what, "for more jobs at once write `slots:`, else give it its own `scratch:`")
        else:
            self.machines[machine] = name
            self.nodes[key(name)] = NodeEntry(name=name, host=address.host, **settings)

    def expanded(self, node: Node | None, path: str) -> list[str]:
        return self.check.parsed(node, path, expand) or []

    def original(self, keys: Mapping[str, Node], path: str) -> None:
        """What only the original tool's nodes file has."""
        if "ip" in keys and "host" in keys:
            self.check.problem(keys["ip"], f"{path}.ip", "says the same as `host:`", "remove one of the two")
        if "ip" in keys and "port" in keys:
            # Before 2022 it was the port of the tool's own program; sshd does not answer there.
            what = "may be the port of the original tool, beside `ip:`"
            self.check.problem(keys["port"], f"{path}.port", what, "remove it, or write `host:` if sshd listens there")
        for each in _ORIGINAL[1:]:
            if self.check.integer(keys.get(each), f"{path}.{each}", low=1, high=65535) is not None:
                self.warnings["the ports of the original tool are ignored: nodes are reached over ssh"] = None

    # --- settings ---

    def shared(self, node: Node | None, path: str) -> dict[str, Any]:
        """What holds for several nodes."""
        if is_null(node):
            return {}
        return self.settings(self.check.mapping(node, path, optional=_SHARED, hints=_HINTS), path)

    def settings(self, keys: Mapping[str, Node], path: str) -> dict[str, Any]:
        """Those settings that are there, by their names in NodeEntry."""
        check, get = self.check, keys.get
        values = {
            "user": check.parsed(get("user"), f"{path}.user", _user),
            "port": check.integer(get("port"), f"{path}.port", low=1, high=65535),
            "identity": check.parsed(get("identity"), f"{path}.identity", self.beside),
            "slots": check.integer(get("slots"), f"{path}.slots", low=1, high=1000),
            "scratch": check.parsed(get("scratch"), f"{path}.scratch", _scratch),
            "capabilities": self.capabilities(get("capabilities"), f"{path}.capabilities"),
            "cores": check.integer(get("cores"), f"{path}.cores", low=1, high=100_000),
            "memory_mb": check.parsed(get("memory"), f"{path}.memory", _memory),
            "gpus": self.gpus(get("gpus"), f"{path}.gpus"),
            "python": check.parsed(get("python"), f"{path}.python", _python),
            "env": self.env(get("env"), f"{path}.env"),
            "max_pause": check.parsed(get("max_pause"), f"{path}.max_pause", _patience),
            "owners": self.owners(get("owners"), f"{path}.owners"),
            **self.owner(get("owner"), f"{path}.owner"),
            "hours": self.hours(get("hours"), f"{path}.hours"),
            **self.gentle(get("gentle"), f"{path}.gentle"),
            "share_inputs": check.parsed(get("share_inputs"), f"{path}.share_inputs", _sharing),
            "enabled": check.boolean(get("enabled"), f"{path}.enabled"),
            "reason": check.line(get("reason"), f"{path}.reason"),
        }
        return {name: value for name, value in values.items() if value is not None}

    def owner(self, node: Node | None, path: str) -> dict[str, Any]:
        check = self.check
        keys = check.mapping(node, path, optional=("pause_when_active", "move_after", "watch", "ignore"))
        files = [check.parsed(item, where, _watched) for where, item in check.items(keys.get("watch"), f"{path}.watch")]
        items = check.items(keys.get("ignore"), f"{path}.ignore")
        ignored = [check.choice(item, where, SIGNS) for where, item in items]
        times = ("pause_when_active", "move_after")
        return {each: check.parsed(keys.get(each), f"{path}.{each}", _time_or_never) for each in times} | {
            "watch": tuple(file for file in files if file is not None) or None,
            "ignore": tuple(kind for kind in ignored if kind is not None) or None,
        }

    def hours(self, node: Node | None, path: str) -> str | None:
        """One text, or a list of them."""
        if not isinstance(node, Sequence):
            return self.check.parsed(node, path, _hours)
        each = [self.check.parsed(item, where, _hours) for where, item in self.check.items(node, path)]
        text = ", ".join(one for one in each if one is not None)
        return self.check.parsed(Scalar(text, False, node.mark), path, _hours) if text else None

    def gentle(self, node: Node | None, path: str) -> dict[str, Any]:
        check = self.check
        keys = check.mapping(node, path, optional=("nice", "ionice", "cores"))
        return {
            "nice": check.integer(keys.get("nice"), f"{path}.nice", high=19),
            "ionice": check.choice(keys.get("ionice"), f"{path}.ionice", IONICE),
            "core_cap": check.integer(keys.get("cores"), f"{path}.cores", low=1, high=100_000),
        }

    def capabilities(self, node: Node | None, path: str) -> tuple[str, ...] | None:
        texts = [(self.check.line(item, where), item, where) for where, item in self.check.items(node, path)]
        for text, item, where in texts:
            if text is not None and (wrong := capability.check(text)):
                self.check.problem(item, where, wrong)
        return capability.normalise(text for text, _, _ in texts if text) or None

    def owners(self, node: Node | None, path: str) -> tuple[str, ...] | None:
        found = []
        for where, item in self.check.items(node, path):
            text = self.check.line(item, where)
            if text is not None and not _OWNER.fullmatch(text):
                self.check.problem(item, where, "is no login name", "as /etc/passwd of the node has it: anna")
            elif text is not None:
                found.append(text)
        return tuple(found) or None

    def gpus(self, node: Node | None, path: str) -> int | tuple[int, ...] | None:
        if not isinstance(node, Sequence):
            return self.check.integer(node, path, high=64)
        numbers = [self.check.integer(item, where, high=63) for where, item in self.check.items(node, path)]
        if len(set(numbers)) < len(numbers):
            self.check.problem(node, path, "names a GPU twice")
        return tuple(number for number in numbers if number is not None)

    def env(self, node: Node | None, path: str) -> dict[str, str] | None:
        found = {}
        for name, item in self.check.entries(node, path):
            where = join(path, name.text)
            value = self.check.string(item, where, empty=True)
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name.text, re.ASCII):
                self.check.problem(name, where, "cannot name an environment variable")
            elif name.text.startswith("DISTRIBUTE_"):
                self.check.problem(name, where, "variables that begin with DISTRIBUTE_ are ours", "choose another name")
            elif value is not None and ("\n" in value or "\r" in value):
                self.check.problem(item, where, "must be one line")
            elif value is not None:
                found[name.text] = value
        return found or None

    def probes(self, node: Node | None) -> dict[str, str]:
        found = {}
        for name, item in self.check.entries(node, "probes"):
            where = join("probes", name.text)
            command = self.check.line(item, where)
            if wrong := capability.check(name.text):
                self.check.problem(name, where, wrong)
            elif name.text in (*capability.TOOLS, "gpu"):
                remedy = "choose another name, or set PATH in `env:` so that it is found"
                self.check.problem(name, where, "is looked for on every node anyway", remedy)
            elif command is not None:
                found[name.text] = command
        return found

    def limits(self, node: Node | None) -> Limits:
        check, names = self.check, ("spool", "files", "jobs")
        keys = {} if is_null(node) else check.mapping(node, "limits", optional=names)
        found = {
            "spool": check.parsed(keys.get("spool"), "limits.spool", parse_size),
            **{each: check.integer(keys.get(each), f"limits.{each}", low=1) for each in names[1:]},
        }
        return Limits(**{name: value for name, value in found.items() if value is not None})

    def beside(self, text: str) -> str:
        return str(resolve(text, self.path.parent))

    def file(self, text: str) -> Path:
        path = resolve(text, self.path.parent)
        if not path.is_file():  # ssh would say so for each node, and as if the node were to blame
            raise ValueError(f"there is no file {path}")
        return path


def _over(shared: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """The nearer setting wins; capabilities and environment add up."""
    merged = {**shared, **own}
    if "capabilities" in merged:
        merged["capabilities"] = capability.normalise((*shared.get("capabilities", ()), *own.get("capabilities", ())))
    if "env" in merged:
        merged["env"] = {**shared.get("env", {}), **own.get("env", {})}
    return merged


def _user(text: str) -> str:
    address = parse_address(f"{text}@host")
    assert address.user is not None
    return address.user


def _scratch(text: str) -> str:
    if not (text.startswith(("/", "~/")) or text == "~") or not text.isprintable():
        raise ValueError(f"`{text}` is not a folder on the node: write an absolute path, or one that begins with ~/")
    return text


def _watched(text: str) -> str:
    if not (text.startswith("/") and text.isascii() and text.isprintable() and len(text) < 200):
        raise ValueError(f"`{text}` is not a file on the node: write an absolute path, in ASCII")
    return text


def _time_or_never(text: str) -> float:
    if text == "never":
        return 0.0
    seconds = parse_duration(text)
    if seconds < 1:
        raise ValueError(f"`{text}` is no time to wait: write 10m, or never")
    return seconds


def _hours(text: str) -> str:
    parse_hours(text)
    return text


def _python(text: str) -> str:
    if not re.fullmatch(r"/[^\0-\x1f]*|[\w][\w.+-]*", text):
        raise ValueError(f"`{text}` is not a python: write a command, as python3.11, or an absolute path")
    return text


def _sharing(text: str) -> int:
    known = {"true": SHARED_FROM, "false": 0}
    return known[text.lower()] if text.lower() in known else parse_size(text)


def _memory(text: str) -> int:
    size = parse_size(text)
    if size < 1 << 20:
        raise ValueError(f"`{text}` is less than a mebibyte: write 64G")
    return size >> 20


def _patience(text: str) -> float:
    seconds = parse_duration(text)
    if seconds < 1:
        raise ValueError(f"`{text}` is no time to wait: write 15m")
    return seconds
