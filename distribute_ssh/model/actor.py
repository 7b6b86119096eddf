"""Who acts, and what that one may do: a person or a workstation behind a key, or the account the queue belongs to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from distribute_ssh.errors import UsageError

VARIABLE = "DISTRIBUTE_ACTOR"
"""The gateway tells the command it runs in this variable for whom it runs. It is no secret and no key: whoever can set
it runs as the account that owns the queue, and needs nobody's leave."""


class Role(StrEnum):
    """What kind of key opened the door."""

    OWNER = "owner"  # no gateway key at all: the account that the queue belongs to
    ADMIN = "admin"
    SUBMITTER = "submitter"
    NODE = "node"  # a workstation, for whoever sits at it


_LOOK = frozenset({"status", "explain", "logs", "history", "follow", "nodes", "verify", "archive list", "notify"})
_OWN = frozenset({"kill", "retry", "hold", "release", "archive rm"})
_PAUSE = frozenset({"pause", "resume"})
_NODES = ("probe", "trust", "drain", "undrain", "doctor", "alias")
_ADMIN = frozenset({"runner", *(f"nodes {each}" for each in _NODES)})

COMMANDS: Mapping[Role, frozenset[str]] = {
    Role.OWNER: _LOOK | _OWN | _PAUSE | _ADMIN,
    Role.ADMIN: _LOOK | _OWN | _PAUSE | _ADMIN,
    Role.SUBMITTER: _LOOK | _OWN,
    Role.NODE: _PAUSE | {"nodes"},
}
"""The commands that the gateway runs for each; what is not listed it runs for nobody."""


@dataclass(frozen=True, slots=True)
class Actor:
    """Somebody. `user` None: the owner, by the name the account has; `node`: the workstation whose key it is."""

    role: Role = Role.OWNER
    user: str | None = None
    node: str | None = None

    def why_not_run(self, command: str) -> str | None:
        """Why this one may not run a command (`nodes drain`) through the gateway; None: go on."""
        if command in COMMANDS[self.role]:
            return None
        if command not in COMMANDS[Role.OWNER]:
            return f"`{command}` is not run for somebody elsewhere"
        if self.role is Role.NODE:
            return f"the key of {self.node} pauses, resumes and looks at {self.node}, and nothing else"
        return f"`{command}` is for administrators, which {self.user} is not"

    def why_not_submit(self) -> str | None:
        """Why this one may not submit; None: go on."""
        return f"the key of {self.node} submits nothing" if self.role is Role.NODE else None

    def why_not_pull(self) -> str | None:
        """Why this one may not have results; None: go on."""
        return f"the key of {self.node} pulls nothing" if self.role is Role.NODE else None

    def why_not_read(self, submitter: str, private: bool) -> str | None:
        """Why this one may not have results and logs of a batch of `submitter`; None: go on."""
        return f"{submitter} keeps the results of this batch private" if private and self._is_other(submitter) else None

    def _is_other(self, submitter: str) -> bool:
        return self.role not in (Role.OWNER, Role.ADMIN) and not (
            self.role is Role.SUBMITTER and self.user == submitter
        )

    def why_not_change(self, submitter: str) -> str | None:
        """Why this one may not change a batch of `submitter`; None: go on."""
        if not self._is_other(submitter):
            return None
        return f"the batch is {submitter}'s, and {self.user} may change only what is their own"

    def why_not_node(self, node: str, *, only_pause: bool) -> str | None:
        """Why this one may not change a node; `only_pause`: no more than a pause is asked for. None: go on."""
        if self.role in (Role.OWNER, Role.ADMIN):
            return None
        if self.role is Role.NODE and only_pause and self.node is not None and node.casefold() == self.node.casefold():
            return None
        return f"{self.user} may not change the node {node}"

    def text(self) -> str:
        """For VARIABLE."""
        return json.dumps({"role": self.role, "user": self.user, "node": self.node})

    @classmethod
    def of(cls, env: Mapping[str, str]) -> Actor | None:
        """The actor an environment names; None: nobody stands between the person and this process.

        Raises UsageError where what it says is none of ours.
        """
        if not (text := env.get(VARIABLE)):
            return None
        try:
            told = json.loads(text)
            return cls(Role(told["role"]), told["user"], told["node"])
        except (ValueError, KeyError, TypeError):
            raise UsageError(f"{VARIABLE} is not to be set by hand") from None
