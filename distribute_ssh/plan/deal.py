"""In which order what is free is given away; the rules are told in `schedule`.

A deal is one giving away of all that is free. During it room only shrinks and submitters only get more, so every rank
only gets worse. That is what makes it fast: heaps keep ranks as they once were, and look again only at their top; and a
place that was found too small is never looked at again.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol, TypeVar

from distribute_ssh.model.resources import Resources, Share
from distribute_ssh.plan.board import SLOT, Board, Line, Spot, is_early
from distribute_ssh.plan.eligible import is_open
from distribute_ssh.plan.room import Needs, Room, Size, portion
from distribute_ssh.plan.snapshot import NodeView, Snapshot, WorkView

DAY = 86_400.0
HOUR = 3_600.0
AFFINITY = 600.0  # seconds without any slot after which a batch no longer yields to one that is built on the node
DAYS = 3  # since it was submitted that help a batch although it is served: a month of work must not outrank everybody
TURN = 600.0  # node-seconds: what a slot counts as while nobody knows how long its job will take
KEPT = 50  # one node in so many, and at least one, is kept free at a time: what is kept is idle meanwhile

Group = tuple[int, Resources | None]  # jobs of one batch that ask for the same
Key = tuple[float, ...]


class Placement(NamedTuple):
    """A free slot for the next ready job of a batch that asks for these resources."""

    batch_id: int
    node: str
    slot: int
    resources: Resources | None = None
    share: Share | None = None  # what it is given; None: a whole slot


class Kept(NamedTuple):
    """For whom a node is kept free."""

    work: WorkView
    waited: float


class Scarcity:
    """How scarce things are among the nodes of a snapshot, reachable or not: a reboot must not turn the order over."""

    def __init__(self, nodes: Sequence[NodeView]) -> None:
        self.nodes = len(nodes)
        self._kinds = defaultdict[frozenset[str], list[NodeView]](list)
        for node in nodes:
            self._kinds[node.capabilities].append(node)
        self._sizes: dict[frozenset[str], Counter[Size]] = {}
        self._large: dict[Resources, dict[frozenset[str], int]] = {}
        self._levels: dict[Needs, int] = {}
        self._wealth: dict[frozenset[str], int] = {}

    def offers(self, needs: Needs) -> int:
        """How many nodes have all of it."""
        alike = (has for has in self._kinds if needs.capabilities <= has)
        if needs.resources is None:
            return sum(len(self._kinds[has]) for has in alike)
        large = self._large.setdefault(needs.resources, {})
        return sum(large[has] if has in large else self._count(has, needs.resources) for has in alike)

    def _count(self, has: frozenset[str], resources: Resources) -> int:
        """How many nodes of a kind are large enough."""
        if has not in self._sizes:
            self._sizes[has] = Counter(map(Size.of, self._kinds[has]))
        count = sum(count for size, count in self._sizes[has].items() if size.lacks(resources) is None)
        self._large[resources][has] = count
        return count

    def level(self, needs: Needs) -> int:
        """Return 0 for what more than two thirds of the nodes have, and one more for every halving below that."""
        if needs not in self._levels:
            offers, level = self.offers(needs), 0
            while 0 < 3 * offers << level <= 2 * self.nodes:
                level += 1
            self._levels[needs] = level
        return self._levels[needs]

    def wealth(self, capabilities: frozenset[str]) -> int:
        """The levels of all of these, each by itself: what lies idle on a node when a job uses none of them."""
        if capabilities not in self._wealth:
            levels = (self.level(Needs(frozenset({capability}))) for capability in capabilities)
            self._wealth[capabilities] = sum(levels)
        return self._wealth[capabilities]


class _Ranked(Protocol):
    def key(self) -> Key | None:
        """Its rank now, unique and never better than before; None: it can get nothing more."""


_R = TypeVar("_R", bound=_Ranked)


def _heap(items: Iterable[_R]) -> list[tuple[Key, _R]]:
    heap = [(key, item) for item in items if (key := item.key()) is not None]
    heapq.heapify(heap)
    return heap


def _refresh(heap: list[tuple[Key, _R]]) -> bool:
    """Bring the best to the top; False: nobody is left."""
    while heap:
        key, item = heap[0]
        now = item.key()
        if now == key:
            return True
        if now is None:
            heapq.heappop(heap)
        else:
            heapq.heapreplace(heap, (now, item))
    return False


class Standing:
    """How a batch stands in a deal, or those of its jobs that ask for the same."""

    def __init__(self, work: WorkView, scarcity: Scarcity, now: float) -> None:
        since = work.submitted_at if work.ready_since is None else work.ready_since
        self.work = work
        self.needs = Needs.of(work)
        self.left = work.ready
        self.waited = max(0.0, now - max(since, work.served_at or since))  # seconds since it last got a slot
        self.level = scarcity.level(self.needs)
        self._uses = scarcity.wealth(work.capabilities)
        self._days = min(DAYS, int(max(0.0, now - since) // DAY))
        self.patience = max(self._days, int(self.waited // DAY))  # days that make up for what its submitter had
        self._is_yielding = work.running > 0 or self.waited <= AFFINITY

    def waste(self, wealth: int) -> int:
        """What it leaves idle of a node's wealth."""
        return wealth - self._uses

    def yields(self, *, is_built: bool) -> bool:
        """Whether it lets batches that are built on a node go first there."""
        return self._is_yielding and not is_built

    @property
    def age(self) -> Key:
        """Its rank when all else is equal: the oldest batch, and of its jobs those that ask for most."""
        return self.work.submitted_at, self.work.batch_id, *_largest_first(self.work.resources)

    def serve(self) -> None:
        """It got a slot."""
        self.left -= 1
        self.waited = 0.0
        self.patience = self._days
        self._is_yielding = True


class _Candidate:
    """Jobs of a batch, and where they may go."""

    def __init__(self, standing: Standing, spots: Sequence[Spot], able: Line, built: Line) -> None:
        self.standing = standing
        self._spots = spots
        self._able = able
        self._built = built
        self._place = -1
        self._age = standing.age

    @property
    def room(self) -> Room:
        """Where the next one goes, by the last `key`."""
        return self._spots[self._place].room

    def key(self) -> Key | None:
        """Its rank among the batches of its submitter."""
        one = self.standing
        able = self._able.first() if one.left else None
        if able is None:
            return None
        built = self._built.first()
        wealth = self._spots[able].wealth
        is_built = built is not None and self._spots[built].wealth == wealth
        self._place = built if built is not None and is_built else able
        return -one.patience, one.waste(wealth), one.yields(is_built=is_built), *self._age


def doublings(usage: float) -> int:
    """What a submitter had lately (node-seconds), in doublings of a turn: within a factor of two nobody is ahead."""
    return int(1 + max(0.0, usage) / TURN).bit_length() - 1


class _Submitter:
    """One person's batches."""

    def __init__(self, name: str, candidates: Iterable[_Candidate], usage: Mapping[str, float]) -> None:
        self._name = name
        self._candidates = _heap(candidates)
        self._usage = usage

    @property
    def best(self) -> _Candidate:
        """The batch whose turn it is, by the last `key`."""
        return self._candidates[0][1]

    def key(self) -> Key | None:
        """Its rank among submitters: what the submitter had, then the rank of the best batch."""
        if not _refresh(self._candidates):
            return None
        patience, waste, yields, *age = self._candidates[0][0]
        usage = self._usage.get(self._name, 0.0)
        return doublings(usage) + patience, waste, yields, usage, *age


class Deal:
    """One giving away of all that is free."""

    def __init__(self, snapshot: Snapshot, now: float) -> None:
        self.scarcity = Scarcity(snapshot.nodes)
        self.usage = dict(snapshot.usage)
        self.standings: dict[Group, Standing] = {
            (work.batch_id, work.resources): Standing(work, self.scarcity, now) for work in snapshot.work
        }
        self.kept: dict[str, Kept] = {}  # by node
        self._alike = defaultdict[Needs, list[Standing]](list)
        for one in self.standings.values():
            self._alike[one.needs].append(one)
        self._rooms = [Room(node) for node in snapshot.nodes if is_open(node)]
        self._wealth = {room.node.name: self.scarcity.wealth(room.node.capabilities) for room in self._rooms}
        by_wealth = defaultdict[int, list[Room]](list)
        for room in self._rooms:
            by_wealth[self._wealth[room.node.name]].append(room)
        self._by_wealth = [by_wealth[wealth] for wealth in sorted(by_wealth)]
        self._has_slots = any(node.slots > 1 for node in snapshot.nodes)
        self.starving = self._starving(now)  # and for how many seconds, the longest first
        waiting = [one.work for one in self.standings.values() if one.left]
        wholes = {work.batch_id for work in waiting if work.resources is None}
        parts = {work.batch_id for work in waiting if work.resources is not None}
        self._wholes = Board(self._free_slots() if wholes else (), wholes)
        self._parts = Board(self._free_parts() if parts else (), parts)

    def placements(self) -> Iterator[Placement]:
        """Give all away, best pair of batch and place first. A deal is played once."""
        for needs, waited in self.starving.items():
            yield from self._relieve(needs, waited)
        levels = defaultdict[int, list[Standing]](list)
        for one in self.standings.values():
            levels[one.level].append(one)
        for level in sorted(levels, reverse=True):
            yield from self._give(levels[level])

    def _free_slots(self) -> Iterator[Spot]:
        for room in self._rooms:
            node = room.node
            if room.lacks(SLOT) is None:
                taken = node.slots - room.slots
                for busy in range(taken, taken + (1 if node.trial else room.slots)):
                    yield Spot(self._wealth[node.name], busy, -node.cores, node.name, room)

    def _free_parts(self) -> Iterator[Spot]:
        for room in self._rooms:
            if room.cores:
                yield Spot(self._wealth[room.node.name], room.is_empty, room.cores, room.node.name, room)

    # --- who waits too long ---

    def _starving(self, now: float) -> dict[Needs, float]:
        """Needs of which no job got a slot for too long although one was ready."""
        waited: dict[Needs, float] = {}
        for needs, alike in self._alike.items():
            since = [one.waited for one in alike if one.left]
            if since:
                served = (now - one.work.served_at for one in alike if one.work.served_at is not None)
                waited[needs] = min([max(since), *served])
        asked = [_largest_first(needs.resources) for needs in waited if needs.resources is not None]
        least = [max(field) for field in zip(*asked, strict=True)]  # they are negative
        is_crowded = self._has_slots and any(needs.resources is None for needs in waited)

        def is_large(mine: Resources | None) -> bool:
            """Whether others that wait ask for less of something, and may take what falls free before it is enough."""
            if mine is None:
                return bool(asked)
            return is_crowded or any(own < other for own, other in zip(_largest_first(mine), least, strict=True))

        self._large = {needs for needs in waited if is_large(needs.resources)}
        bound = {needs: HOUR if needs in self._large else DAY for needs in waited}
        order = sorted(waited, key=lambda n: (-waited[n], sorted(n.capabilities), _largest_first(n.resources)))
        return {needs: waited[needs] for needs in order if waited[needs] > bound[needs]}

    def _relieve(self, needs: Needs, waited: float) -> Iterator[Placement]:
        """Give one job with these needs what it waits for. What is not enough for it yet is kept until it is.

        Small jobs would take whatever falls free, and it would never be enough for a large one.
        """
        if waited > DAY:
            for placement in self._give(self._alike[needs]):
                yield placement
                return
        if needs not in self._large or len(self.kept) >= max(1, self.scarcity.nodes // KEPT):
            return
        for room in self._nearest(needs):
            able = [one for one in self._alike[needs] if one.left and not _is_refused(one.work, room.node)]
            if able:
                one = min(able, key=self._turn)
                if room.lacks(needs) is None:
                    yield self._hand(one, room)
                else:
                    room.keep(needs)
                    self._wholes.shrink(room)
                    self.kept[room.node.name] = Kept(one.work, waited)
                return

    def _nearest(self, needs: Needs) -> Iterator[Room]:
        """Nodes that will be large enough, of those with least to waste, the first that has most of it now.

        While nothing else is placed there a node only gets nearer, so whichever is kept from tick to tick, the
        distance of the nearest never grows.
        """
        for rooms in self._by_wealth:
            able = (room for room in rooms if needs.capabilities <= room.node.capabilities)
            near = [(room.shortfall(needs), room.node.name, room) for room in able if room.node.name not in self.kept]
            heapq.heapify(near)
            while near:
                _, _, room = heapq.heappop(near)
                if room.emptied().lacks(needs) is None:
                    yield room

    def _turn(self, one: Standing) -> Key:
        """Whose turn it is among those that need the same."""
        return doublings(self.usage.get(one.work.submitter, 0.0)) - one.patience, *one.age

    # --- everybody else ---

    def _candidate(self, one: Standing) -> _Candidate:
        board = self._wholes if one.needs.resources is None else self._parts
        return _Candidate(one, board.spots, *board.lines(one.work, one.needs))

    def _give(self, standings: Iterable[Standing]) -> Iterator[Placement]:
        """Give to these until they have what they want or nothing is left for them."""
        candidates = defaultdict[str, list[_Candidate]](list)
        for one in standings:
            if one.left:
                candidates[one.work.submitter].append(self._candidate(one))
        submitters = _heap(_Submitter(name, candidates[name], self.usage) for name in candidates)
        while _refresh(submitters):
            best = submitters[0][1].best
            yield self._hand(best.standing, best.room)

    def _hand(self, one: Standing, room: Room) -> Placement:
        work, node = one.work, room.node
        slot, share = room.take(one.needs)
        self._wholes.shrink(room)
        turn = TURN * portion(share, node.cores, node.memory_mb, len(node.gpus))
        self.usage[work.submitter] = self.usage.get(work.submitter, 0.0) + turn
        one.serve()
        return Placement(work.batch_id, node.name, slot, work.resources, share)


def _is_refused(work: WorkView, node: NodeView) -> bool:
    return work.batch_id in node.failed or work.batch_id in node.holdoff or is_early(work, node)


def _largest_first(asked: Resources | None) -> Key:
    if asked is None:
        return (-math.inf,)
    return -asked.gpus, -asked.cores, -asked.memory_mb, -asked.gpu_memory_mb, -asked.disk_mb
