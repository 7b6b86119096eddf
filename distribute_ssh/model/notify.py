"""How a head tells people that a batch has ended: the section `notify` of its config file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from distribute_ssh.model.names import check_name, is_matrix_id
from distribute_ssh.model.units import parse_size
from distribute_ssh.model.yamltext import Checker, Node, Scalar, is_null
from distribute_ssh.model.yamltext import Mapping as YamlMapping

_LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class MatrixAccount:
    """The account that the head writes with. Where it is None, `room` is a direct one with each person."""

    homeserver: str  # its base URL, without a slash at the end
    account: str  # `@distribute:server.org`
    token_file: Path | None = None  # None: $DISTRIBUTE_MATRIX_TOKEN has it
    room: str | None = None  # an id or an alias


@dataclass(frozen=True, slots=True)
class Notify:
    """Whom to tell, and how. `users`: recipients for each submitter, besides those that the jobs file names."""

    matrix: MatrixAccount | Path | None = None  # Path: of the original's JSON file
    channels: Mapping[str, str] = field(default_factory=dict, repr=False)  # URLs by name; some hold passwords
    users: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    admins: tuple[str, ...] = ()  # told when storage runs low
    storage_below: int = 0  # bytes that are low; 0: never

    def recipients(self, submitter: str, asked: tuple[str, ...]) -> tuple[str, ...]:
        """Everybody to be told of a batch of `submitter` whose jobs file asked for some, each once."""
        return tuple(dict.fromkeys((*asked, *self.users.get(submitter, ()))))


def read_notify(check: Checker, node: Node | None, path: Callable[[str], Path]) -> Notify:
    """Read the section; `path` makes paths of what is written. What is wrong goes to `check`, without the value."""
    if node is None or is_null(node):
        return Notify()
    keys = check.mapping(node, "notify", optional=("matrix", "channels", "users", "admins", "storage_below"))
    matrix = _matrix(check, keys.get("matrix"), path)
    channels: dict[str, str] = {}
    for key, value in check.entries(keys.get("channels"), "notify.channels"):
        here = f"notify.channels.{key.text}"
        url = check.line(value, here)
        if wrong := check_name(key.text):
            check.problem(key, here, wrong)
        elif url is not None and "://" not in url:
            check.problem(value, here, "is no URL", "write it as apprise does: mailto://..., ntfys://..., slack://...")
        elif url is not None:
            channels[key.text] = url
    users = {
        key.text: _recipients(check, value, f"notify.users.{key.text}", channels)
        for key, value in check.entries(keys.get("users"), "notify.users")
    }
    admins = keys.get("admins")
    told = () if admins is None or is_null(admins) else _recipients(check, admins, "notify.admins", channels)
    below = check.parsed(keys.get("storage_below"), "notify.storage_below", parse_size) or 0
    if below and not told:
        check.problem(keys["storage_below"], "notify.storage_below", "is told to nobody", "write whom: `admins:`")
    return Notify(matrix, channels, users, told, below)


def _matrix(check: Checker, node: Node | None, path: Callable[[str], Path]) -> MatrixAccount | Path | None:
    if node is None or is_null(node):
        return None
    if not isinstance(node, YamlMapping):
        return check.parsed(node, "notify.matrix", path)
    keys = check.mapping(
        node, "notify.matrix", required=("homeserver", "account"), optional=("token_file", "room"),
        hints={"token": "a token has a file of its own, of mode 600: `token_file:`"},
    )  # fmt: skip
    homeserver = check.parsed(keys.get("homeserver"), "notify.matrix.homeserver", homeserver_url)
    account = check.line(keys.get("account"), "notify.matrix.account")
    if account is not None and not is_matrix_id(account):
        check.problem(keys["account"], "notify.matrix.account", "is no Matrix user id", 'as in "@name:server.org"')
    room = check.line(keys.get("room"), "notify.matrix.room")
    if room is not None and not room.startswith(("!", "#")):
        remedy = 'write its id or its alias, in quotes: "!id:server.org", "#lab:server.org"'
        check.problem(keys["room"], "notify.matrix.room", "is no room", remedy)
    token_file = check.parsed(keys.get("token_file"), "notify.matrix.token_file", path)
    return MatrixAccount(homeserver, account, token_file, room) if homeserver and account else None


def homeserver_url(text: str) -> str:
    """The base URL of a homeserver. Raises ValueError for one that would show the token to the network."""
    parts = urlsplit(text)
    if parts.scheme not in ("https", "http") or not parts.hostname or parts.query or parts.fragment or parts.username:
        raise ValueError("is no homeserver's address: write it as in https://matrix.org")
    if parts.scheme == "http" and parts.hostname not in _LOOPBACK:
        raise ValueError("would send the token in the clear: write https://")
    return text.rstrip("/")


def _recipients(check: Checker, node: Node, path: str, channels: Mapping[str, str]) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for here, item in [(path, node)] if isinstance(node, Scalar) and not is_null(node) else check.items(node, path):
        text = check.line(item, here)
        if text is not None and not (is_matrix_id(text) or text in channels):
            remedy = 'write a name from `notify.channels`, or a Matrix user id: "@name:server.org"'
            check.problem(item, here, "is neither a channel nor a Matrix user id", remedy)
        elif text is not None:
            found[text] = None
    return tuple(found)
