"""Where jobs may go, best first, and what of that is gone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence, Set
from itertools import chain
from typing import NamedTuple

from distribute_ssh.plan.room import GPU, Needs, Room
from distribute_ssh.plan.snapshot import NodeView, WorkView

SLOT = Needs(frozenset())
SLOT_WITH_GPUS = Needs(frozenset({GPU}))


class Spot(NamedTuple):
    """Where a job may go; sorted, those come first that are best for a job that can use any of them.

    Jobs that take a whole slot go to the emptiest node, and then to the one with most cores. Jobs that take a part go
    where others are already, and then where least is left: whole machines stay free for who needs one.
    """

    wealth: int
    busy: int
    cores: int
    node: str
    room: Room


class Line:
    """Places one may take, best first. What is gone does not come back, so each search goes on where the last ended."""

    def __init__(self, places: list[int], gone: bytearray) -> None:
        self._places = places
        self._gone = gone
        self._at = 0

    def first(self) -> int | None:
        """The best one that is left."""
        places, gone, at = self._places, self._gone, self._at
        end = len(places)
        while at < end and gone[places[at]]:
            at += 1
        self._at = at
        return places[at] if at < end else None

    def without(self, refused: Set[int]) -> Line:
        """The same without some of them."""
        return Line([place for place in self._places[self._at :] if place not in refused], self._gone)


class _PartLine(Line):
    """The same for jobs that take a part: a place is gone when it is too small for one of them."""

    def __init__(self, places: list[int], rooms: Sequence[Room], needs: Needs) -> None:
        super().__init__(places, bytearray())
        self._rooms = rooms
        self._needs = needs
        self._cores = 1 if needs.resources is None else needs.resources.cores
        self._had = -1, -1  # where there was enough, and what had been taken there

    def first(self) -> int | None:
        """The best one that is left."""
        places, rooms, at = self._places, self._rooms, self._at
        end, cores = len(places), self._cores
        while at < end:
            room = rooms[places[at]]
            if room.cores >= cores:  # they are what most often lacks
                if self._had == (at, room.taken):
                    break
                if room.lacks(self._needs) is None:
                    self._had = at, room.taken
                    break
            at += 1
        self._at = at
        return places[at] if at < end else None

    def without(self, refused: Set[int]) -> Line:
        """The same without some of them."""
        left = [place for place in self._places[self._at :] if place not in refused]
        return _PartLine(left, self._rooms, self._needs)


class Board:
    """The spots for jobs that take a whole slot, or those for jobs that say what they take."""

    def __init__(self, spots: Iterable[Spot], waiting: Set[int]) -> None:
        """`waiting`: the batches that matter."""
        self.spots = sorted(spots)
        self._rooms = [spot.room for spot in self.spots]
        self._has = [room.node.capabilities for room in self._rooms]
        self._able: dict[Needs, Line] = {}
        self._alike = defaultdict[frozenset[str], list[int]](list)
        self._built = defaultdict[int, list[int]](list)
        self._refused = defaultdict[int, set[int]](set)
        self._later: list[int] = []  # places that take only what has waited for the others
        self._gone = bytearray(len(self.spots))
        self._gone_with_gpus = bytearray(len(self.spots))  # for jobs that want all GPUs
        self._slots = defaultdict[str, list[int]](list)  # of a node, that are left; the next one last
        for place, spot in enumerate(self.spots):
            node = spot.room.node
            self._alike[node.capabilities].append(place)
            self._slots[node.name].insert(0, place)
            self._gone_with_gpus[place] = bool(node.gpus) and spot.room.lacks(SLOT_WITH_GPUS) is not None
            if node.accepts_after:
                self._later.append(place)
            refused = node.failed.keys() | node.holdoff.keys()
            for batch_id in refused & waiting:
                self._refused[batch_id].add(place)
            for batch_id in (node.built & waiting) - refused:
                self._built[batch_id].append(place)

    def lines(self, work: WorkView, needs: Needs) -> tuple[Line, Line]:
        """All places for jobs of a batch, and those where it is built."""
        if needs not in self._able:  # batches with the same needs share one search
            able = chain.from_iterable(places for has, places in self._alike.items() if needs.capabilities <= has)
            self._able[needs] = self._line(sorted(able), needs)
        line, refused = self._able[needs], self._refused.get(work.batch_id, set())
        if self._later:
            refused = refused.union(p for p in self._later if is_early(work, self.spots[p].room.node))
        if refused:
            line = line.without(refused)
        has, wanted = self._has, needs.capabilities
        built = [place for place in self._built.get(work.batch_id, ()) if wanted <= has[place] and place not in refused]
        return line, self._line(built, needs)

    def _line(self, places: list[int], needs: Needs) -> Line:
        if needs.resources is not None:
            return _PartLine(places, self._rooms, needs)
        return Line(places, self._gone_with_gpus if GPU in needs.capabilities else self._gone)

    def shrink(self, room: Room) -> None:
        """Note which slots of a node went with what was taken of it."""
        slots = self._slots[room.node.name]
        while len(slots) > room.slots:
            place = slots.pop()
            self._gone[place] = self._gone_with_gpus[place] = True
        if not (room.is_shared or room.node.trial or room.node.gpus):
            return  # a slot then leaves the others as they were
        if slots and room.lacks(SLOT) is not None:
            for place in slots:
                self._gone[place] = self._gone_with_gpus[place] = True
            slots.clear()
        elif slots and room.lacks(SLOT_WITH_GPUS) is not None:
            for place in slots:
                self._gone_with_gpus[place] = True


def is_early(work: WorkView, node: NodeView) -> bool:
    """Whether the node takes only what has waited longer for the others."""
    return work.waited < node.accepts_after
