"""One node's pause: what is asked of the node is carried out there once, and what stands there is told when it changes.

A lease may come from somebody at the node's own desk as well: so the node is asked, and believed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from distribute_ssh.coordination.evidence import Evidence, Leased, NotObeyed
from distribute_ssh.errors import NodeError, UnreachableError
from distribute_ssh.model.lease import Lease, NodeRequest
from distribute_ssh.node.channel import Channel
from distribute_ssh.node.lease import carry_out

AGAIN = 5.0  # seconds until a node is asked again that had no room to write the lease down


class Pausing:
    """On one connection; `tell` takes notice of what happened."""

    def __init__(self, node: str, tell: Callable[[Evidence], None]) -> None:
        self.request: NodeRequest | None = None
        self._node = node
        self._tell = tell
        self._lease: Lease | None = None
        self._not_before: dict[tuple[str, float | None], float] = {}  # a request -> when it may be carried out (again)

    @property
    def is_paused(self) -> bool:
        """Whether a pause stands there, as far as is known."""
        return self._lease is not None

    def connected(self) -> None:
        """Begin anew: what was asked for on a line that broke may not have arrived."""
        self._not_before.clear()

    def due(self) -> list[NodeRequest]:
        """What is to be carried out now."""
        request = self.request
        if request is None or request.is_over(time.time()):
            return []
        return [request] if self._not_before.get(_key(request), 0.0) <= time.monotonic() else []

    async def carry_out(self, channel: Channel, request: NodeRequest) -> None:
        """Do it. Raises UnreachableError; any other trouble is told, and it is tried again in a while."""
        self._not_before[_key(request)] = float("inf")
        try:
            lease = await carry_out(channel, request)
        except UnreachableError:
            raise
        except NodeError as error:
            self._not_before[_key(request)] = time.monotonic() + AGAIN
            self._tell(NotObeyed(self._node, request.token, error.message))
        else:
            self._lease = lease
            self._tell(Leased(self._node, lease, request.token))

    def heard(self, lease: Lease | None, *, anew: bool = False) -> None:
        """Take what the node says stands there; `anew`: what was told before does not count."""
        if lease and self._lease and lease.token == self._lease.token:
            lease = replace(lease, left=self._lease.left)  # only the answer to a pause names them
        changed = self._lease is not None if lease is None else lease.differs(self._lease)
        if changed or anew:
            self._lease = lease
            self._tell(Leased(self._node, lease))


def _key(request: NodeRequest) -> tuple[str, float | None]:
    """What tells requests apart: a lease that we ask for ourselves is extended under its own token."""
    return request.token, request.until
