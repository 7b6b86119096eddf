"""Who may use a head, and with which key: our own block of the account's authorized_keys, and nothing else of it.

Each key stands behind `restrict` and a forced command that names its person, so that sshd tells us who speaks. The
block stands first in the file, because sshd takes the first line that fits: a key that is allowed more further down is
still restricted.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import fcntl
import hashlib
import os
import re
import secrets
import shlex
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from distribute_ssh.errors import NoMatchError, UsageError
from distribute_ssh.model.actor import Role
from distribute_ssh.model.names import check_name

BEGIN = b"# distribute users: begin (kept by `distribute users`; what is written here by hand is lost)\n"
END = b"# distribute users: end\n"
_LONGEST_FILE = 1 << 16
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}", re.ASCII)
_RESERVED = ("distribute", "owner")  # who acts by itself, and whom the queue belongs to
_LINE = re.compile(r'restrict,command="((?:[^"\\]|\\.)*)" (\S+) (\S+) \S+')
_FIELDS = {  # of each kind of key: how many strings it is made of, its name among them
    "ssh-ed25519": 2,
    "ssh-rsa": 3,
    "ecdsa-sha2-nistp256": 3,
    "ecdsa-sha2-nistp384": 3,
    "ecdsa-sha2-nistp521": 3,
    "sk-ssh-ed25519@openssh.com": 3,
    "sk-ecdsa-sha2-nistp256@openssh.com": 4,
}
_LEAST_RSA = 2048  # bits


@dataclass(frozen=True, slots=True)
class Key:
    """A public key: its kind, and the rest as the file has it."""

    kind: str
    blob: str

    @property
    def fingerprint(self) -> str:
        """What a person compares: `SHA256:...`."""
        digest = hashlib.sha256(base64.b64decode(self.blob)).digest()
        return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


@dataclass(frozen=True, slots=True)
class User:
    """One key of one person, or of a workstation."""

    name: str
    key: Key
    role: Role = Role.SUBMITTER
    node: str | None = None


def check_user(name: str) -> None:
    """Raise UsageError for what cannot be a user's name: it becomes a word of a command and the name of a folder."""
    if not _NAME.fullmatch(name) or ".." in name or name.endswith("."):
        raise UsageError(
            f"{name[:60]!r} cannot be a user's name",
            hint="at most 32 letters, digits and ._- without '..', beginning with a letter",
        )
    if name.casefold() in _RESERVED:
        raise UsageError(f"{name} is a name of ours", hint="take another one")


def read_key(path: Path) -> Key:
    """Read the public key a file holds: one, and without options. Raises UsageError."""
    try:
        with path.open("rb") as file:
            text = file.read(_LONGEST_FILE + 1)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    if b"PRIVATE KEY" in text:
        raise UsageError(f"{path} is a private key, which its owner should show to nobody", hint=f"take {path}.pub")
    lines = [line for line in text.decode("utf-8", "replace").splitlines() if line.strip() and line.lstrip()[0] != "#"]
    if len(lines) != 1 or len(text) > _LONGEST_FILE:
        raise UsageError(f"{path} holds {len(lines)} keys, not one", hint="write one public key into a file of its own")
    words = lines[0].split()
    if len(words) < 2 or words[0] not in _FIELDS:
        known = ", ".join(_FIELDS)
        raise UsageError(f"{path} holds no public key, or one with options before it", hint=f"it begins with {known}")
    key = Key(words[0], words[1])
    if wrong := _wrong(key):
        raise UsageError(f"{path}: the key is {wrong}")
    return key


def _wrong(key: Key) -> str | None:
    """What is wrong with a key, or None. sshd would pass over a broken line without a word."""
    try:
        blob = base64.b64decode(key.blob, validate=True)
    except binascii.Error:
        return "damaged: it is no base64"
    parts = []
    while blob:
        if len(blob) < 4 or len(blob) < 4 + (size := struct.unpack(">I", blob[:4])[0]):
            return "damaged: it is cut off"
        parts.append(blob[4 : 4 + size])
        blob = blob[4 + size :]
    if not parts or parts[0] != key.kind.encode() or len(parts) != _FIELDS[key.kind]:
        return f"damaged: it is no {key.kind}"
    if key.kind == "ssh-ed25519" and len(parts[1]) != 32:
        return "damaged: it has a wrong length"
    if key.kind == "ssh-rsa" and int.from_bytes(parts[2]).bit_length() < _LEAST_RSA:
        return f"too short: RSA needs {_LEAST_RSA} bits; make one with `ssh-keygen -t ed25519`"
    return None


class Keys:
    """One authorized_keys file. `gateway`: the command line of the gateway, without what is said of the user."""

    def __init__(self, path: Path, gateway: Sequence[str]) -> None:
        self.path = path.resolve()  # a link stays one: what it leads to is replaced
        self._gateway = tuple(gateway)

    def users(self) -> list[User]:
        """Everybody in our block. Raises UsageError where somebody else wrote into it."""
        return self._split(self._read())[0]

    def add(self, user: User) -> None:
        """Let a key in. Raises UsageError where it is somebody's already."""
        with self._changing() as (users, rest):
            for each in users:
                if each.key == user.key:
                    hint = f"distribute users remove {each.name}"
                    raise UsageError(f"that is a key of {each.name} already", hint=hint)
                if each.name.casefold() == user.name.casefold() and each.name != user.name:
                    hint = "take another name"
                    raise UsageError(f"{each.name} is there: names differ in more than case", hint=hint)
                if each.name == user.name and (each.role, each.node) != (user.role, user.node):
                    raise UsageError(
                        f"{user.name} is there, as {_title(each)}", hint=f"first: distribute users remove {user.name}"
                    )
            self._write([*users, user], rest)

    def remove(self, name: str) -> list[User]:
        """Let all keys of a person in no more; those that were removed. Raises NoMatchError where there are none."""
        with self._changing() as (users, rest):
            gone = [each for each in users if each.name == name]
            if not gone:
                known = ", ".join(sorted({each.name for each in users})) or "nobody"
                raise NoMatchError(f"there is no user named {name[:60]!r}", hint=f"users: {known}")
            self._write([each for each in users if each.name != name], rest)
            return gone

    def elsewhere(self, key: Key) -> bool:
        """Whether the file lets the key in outside of our block too."""
        return key.blob.encode() in self._split(self._read())[1]

    @contextlib.contextmanager
    def _changing(self) -> Iterator[tuple[list[User], bytes]]:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield self._split(self._read())
            os.fsync(fd)
        finally:
            os.close(fd)

    def _read(self) -> bytes:
        try:
            return self.path.read_bytes()
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise UsageError(f"{self.path} cannot be read: {error.strerror}") from None

    def _split(self, text: bytes) -> tuple[list[User], bytes]:
        """The users of our block, and everything else."""
        before, begin, rest = text.partition(BEGIN)
        inside, end, after = rest.partition(END)
        if not begin and END not in text:
            return [], text
        if not end or BEGIN in after or END in after:
            raise UsageError(
                f"the marks of our block in {self.path} are not as we left them",
                hint=f"there is to be one line {BEGIN.decode().strip()!r}, and after it one {END.decode().strip()!r}",
            )
        return [self._parse(line) for line in inside.decode("utf-8", "replace").splitlines()], before + after

    def _parse(self, line: str) -> User:
        if found := _LINE.fullmatch(line):
            words = shlex.split(found[1].replace('\\"', '"'))
            said = {word: value for word, value in pairwise(words) if word.startswith("--")}
            with contextlib.suppress(KeyError, ValueError):
                key = Key(found[2], found[3])
                if _wrong(key) is None:
                    return User(said["--user"], key, Role(said["--role"]), said.get("--node"))
        hint = "move it below the block"
        raise UsageError(f"a line of our block in {self.path} is not ours: {line[:80]!r}", hint=hint)

    def _write(self, users: Sequence[User], rest: bytes) -> None:
        block = b"".join([BEGIN, *(self._line(user).encode() for user in users), END]) if users else b""
        fresh = self.path.with_name(f".{self.path.name}.{secrets.token_hex(6)}")
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            with open(fd, "wb") as file:
                if os.geteuid() == 0:  # sshd reads it as the account: a file of root's would lock everybody out
                    there = (self.path if self.path.exists() else self.path.parent).stat()
                    os.fchown(fd, there.st_uid, there.st_gid)
                file.write(block + rest)
                file.flush()
                os.fsync(fd)
            fresh.replace(self.path)
        except BaseException:
            fresh.unlink(missing_ok=True)
            raise

    def _line(self, user: User) -> str:
        check_user(user.name)
        words = [*self._gateway, "--user", user.name, "--role", user.role]
        if user.node is not None:
            if wrong := check_name(user.node):
                raise UsageError(f"{user.node[:60]!r} names no node: {wrong}")
            words += ["--node", user.node]
        command = shlex.join(words)
        if not command.isprintable() or "\\" in command:
            raise UsageError(f"this cannot be written into {self.path}: {command!r}")
        escaped = command.replace('"', '\\"')
        return f'restrict,command="{escaped}" {user.key.kind} {user.key.blob} {user.name}\n'


def _title(user: User) -> str:
    return f"the key of {user.node}" if user.node else user.role.value
