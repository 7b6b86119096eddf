"""In which order free slots are given away; the rules are told in `schedule`.

A deal is one giving away of all free slots. During it slots are only taken and submitters only get more, so every rank
only gets worse. That is what makes it fast: heaps keep ranks as they once were, and look again only at their top.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from itertools import chain, islice
from typing import NamedTuple, Protocol, TypeVar

from distribute_ssh.plan.eligible import is_open, room
from distribute_ssh.plan.snapshot import NodeView, Snapshot, WorkView

DAY = 86_400.0
AFFINITY = 600.0  # seconds without any slot after which a batch no longer yields to one that is built on the node
TURN = 600.0  # node-seconds: what a slot counts as while nobody knows how long its job will take

Needs = frozenset[str]
Key = tuple[float, ...]


class Placement(NamedTuple):
    """A free slot for the next ready job of a batch."""

    batch_id: int
    node: str
    slot: int


class Scarcity:
    """How scarce things are among the nodes of a snapshot, reachable or not: a reboot must not turn the order over."""

    def __init__(self, nodes: Sequence[NodeView]) -> None:
        self.nodes = len(nodes)
        self._kinds = defaultdict[frozenset[str], int](int)
        for node in nodes:
            self._kinds[node.capabilities] += 1
        self._levels: dict[Needs, int] = {}

    def offers(self, needs: Needs) -> int:
        """How many nodes have all of it."""
        return sum(count for has, count in self._kinds.items() if needs <= has)

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
        return sum(self.level(frozenset({capability})) for capability in capabilities)


class _Slot(NamedTuple):
    """A free slot; sorted, those come first that are best for a job that can use any of them."""

    wealth: int
    taken: int  # slots of its node that are taken before it
    cores: int  # negative
    node: str
    slot: int


class _Line:
    """Free slots one may take, best first."""

    def __init__(self, places: list[int], taken: bytearray) -> None:
        self._places = places
        self._taken = taken
        self._at = 0

    def first(self) -> int | None:
        """The best one not taken yet; taken slots stay taken, so the search goes on where it ended."""
        while self._at < len(self._places):
            if not self._taken[place := self._places[self._at]]:
                return place
            self._at += 1
        return None

    def without(self, places: Set[int]) -> _Line:
        """The same without some of them."""
        return _Line([place for place in self._places[self._at :] if place not in places], self._taken)


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
    """How a batch stands in a deal."""

    def __init__(self, work: WorkView, scarcity: Scarcity, now: float) -> None:
        since = work.submitted_at if work.ready_since is None else work.ready_since
        self.work = work
        self.left = work.ready
        self.waited = max(0.0, now - max(since, work.served_at or since))  # seconds since it last got a slot
        self.level = scarcity.level(work.capabilities)
        self._uses = scarcity.wealth(work.capabilities)
        self._is_yielding = work.running > 0 or self.waited <= AFFINITY

    @property
    def patience(self) -> int:
        """Whole days without a new slot."""
        return int(self.waited // DAY)

    def waste(self, wealth: int) -> int:
        """What it leaves idle of a node's wealth."""
        return wealth - self._uses

    def yields(self, *, is_built: bool) -> bool:
        """Whether it lets batches that are built on a node go first there."""
        return self._is_yielding and not is_built

    def serve(self) -> None:
        """It got a slot."""
        self.left -= 1
        self.waited = 0.0
        self._is_yielding = True


class _Candidate:
    """A batch, and the slots it may take."""

    def __init__(self, standing: Standing, slots: Sequence[_Slot], able: _Line, built: _Line) -> None:
        self.standing = standing
        self.place = -1  # the slot it takes next, by its last `key`
        self._slots = slots
        self._able = able
        self._built = built

    def key(self) -> Key | None:
        """Its rank among the batches of its submitter."""
        one = self.standing
        able = self._able.first() if one.left else None
        if able is None:
            return None
        built = self._built.first()
        is_built = built is not None and self._slots[built].wealth == self._slots[able].wealth
        self.place = built if built is not None and is_built else able
        waste = one.waste(self._slots[able].wealth)
        return -one.patience, waste, one.yields(is_built=is_built), one.work.submitted_at, one.work.batch_id


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
    """One giving away of all free slots."""

    def __init__(self, snapshot: Snapshot, now: float) -> None:
        self.scarcity = Scarcity(snapshot.nodes)
        self.usage = dict(snapshot.usage)
        self.standings = {work.batch_id: Standing(work, self.scarcity, now) for work in snapshot.work}
        self.starving = self._starving(now)
        self._nodes = {node.name: node for node in snapshot.nodes if is_open(node)}
        self._slots = sorted(self._free_slots())
        self._taken = bytearray(len(self._slots))
        self._able: dict[Needs, _Line] = {}
        self._alike = defaultdict[frozenset[str], list[int]](list)
        self._built = defaultdict[int, list[int]](list)
        self._refused = defaultdict[int, set[int]](set)
        self._index()

    def placements(self) -> Iterator[Placement]:
        """Give the slots away, best pair of batch and slot first. A deal is played once."""
        for needs in self.starving:
            yield from islice(self._give(one for one in self.standings.values() if one.work.capabilities == needs), 1)
        levels = defaultdict[int, list[Standing]](list)
        for one in self.standings.values():
            levels[one.level].append(one)
        for level in sorted(levels, reverse=True):
            yield from self._give(levels[level])

    def _starving(self, now: float) -> list[Needs]:
        """Needs of which no job got a slot for a day although one was ready, the longest waiting first."""
        waited: dict[Needs, float] = {}
        for one in self.standings.values():
            if one.left:
                needs = one.work.capabilities
                waited[needs] = max(one.waited, waited.get(needs, 0.0))
        for one in self.standings.values():
            if one.work.served_at is not None and (needs := one.work.capabilities) in waited:
                waited[needs] = min(now - one.work.served_at, waited[needs])
        return sorted((n for n in waited if waited[n] > DAY), key=lambda n: (-waited[n], sorted(n)))

    def _free_slots(self) -> Iterator[_Slot]:
        for node in self._nodes.values():
            wealth = self.scarcity.wealth(node.capabilities)
            taken = node.slots - len(node.free_slots)
            for ahead, slot in enumerate(room(node)):
                yield _Slot(wealth, taken + ahead, -node.cores, node.name, slot)

    def _index(self) -> None:
        """Note which slots are alike, where each batch is built, and where it cannot be."""
        waiting = {one.work.batch_id: one.work.capabilities for one in self.standings.values() if one.left}
        for place, slot in enumerate(self._slots):
            node = self._nodes[slot.node]
            self._alike[node.capabilities].append(place)
            refused = node.failed.keys() | node.holdoff.keys()
            for batch_id in refused & waiting.keys():
                self._refused[batch_id].add(place)
            for batch_id in (node.built & waiting.keys()) - refused:
                if waiting[batch_id] <= node.capabilities:
                    self._built[batch_id].append(place)

    def _candidate(self, one: Standing) -> _Candidate:
        needs, batch_id = one.work.capabilities, one.work.batch_id
        if needs not in self._able:  # batches with the same needs share one search
            able = chain.from_iterable(places for has, places in self._alike.items() if needs <= has)
            self._able[needs] = _Line(sorted(able), self._taken)
        able_line = self._able[needs]
        if batch_id in self._refused:
            able_line = able_line.without(self._refused[batch_id])
        return _Candidate(one, self._slots, able_line, _Line(self._built.get(batch_id, []), self._taken))

    def _give(self, standings: Iterable[Standing]) -> Iterator[Placement]:
        """Give slots to these until they have what they want or nothing is left for them."""
        candidates = defaultdict[str, list[_Candidate]](list)
        for one in standings:
            if one.left:
                candidates[one.work.submitter].append(self._candidate(one))
        submitters = _heap(_Submitter(name, candidates[name], self.usage) for name in candidates)
        while _refresh(submitters):
            best = submitters[0][1].best
            work, slot = best.standing.work, self._slots[best.place]
            self._taken[best.place] = True
            self.usage[work.submitter] = self.usage.get(work.submitter, 0.0) + TURN
            best.standing.serve()
            yield Placement(work.batch_id, slot.node, slot.slot)
