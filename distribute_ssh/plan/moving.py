"""Which paused jobs are attempted elsewhere: only where another node has a slot that nobody else could use now.

To move is to begin anew. So a job goes on waiting until it has waited for as long as it had worked: then what is lost
is never more than what was waited for, whenever the pause would have ended.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from distribute_ssh.plan.eligible import refusal
from distribute_ssh.plan.room import Needs, Room
from distribute_ssh.plan.snapshot import Snapshot, WorkView


@dataclass(frozen=True, slots=True)
class Paused:
    """An attempt that stands still, and whose batch allows another."""

    token: str
    node: str
    work: WorkView  # its batch
    seconds: float  # since when it does
    worked: float  # seconds it had before
    move_after: float  # seconds that its node asks everybody to wait

    @property
    def is_due(self) -> bool:
        """Whether it has waited long enough."""
        return self.seconds >= max(self.move_after, self.worked)


def moves(snapshot: Snapshot, paused: Iterable[Paused]) -> list[str]:
    """The attempts to give up. `snapshot`: after all was given away that waiting jobs can use.

    Who waits longest goes first; each takes room that is then no other's.
    """
    rooms = [Room(node) for node in snapshot.nodes]
    going = []
    for each in sorted(paused, key=lambda one: (-one.seconds, one.token)):
        needs = Needs.of(each.work)
        for room in rooms:
            node, is_able = room.node, each.is_due and room.lacks(needs) is None
            if is_able and node.name != each.node and refusal(node, each.work) is None:
                room.take(needs)
                going.append(each.token)
                break
    return going
