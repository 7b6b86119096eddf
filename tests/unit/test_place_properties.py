"""What holds for every lab and every queue, whoever asks for what."""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from distribute_ssh.model.job import NodeState
from distribute_ssh.model.resources import Resources, Share
from distribute_ssh.plan.deal import AFFINITY, DAY, HOUR, TURN, Deal, Placement, doublings
from distribute_ssh.plan.eligible import is_open
from distribute_ssh.plan.room import Needs, Room, Size
from distribute_ssh.plan.schedule import Code, explain, explain_node, place, refusal
from distribute_ssh.plan.snapshot import GpuView, NodeView, Snapshot, WorkView

NOW = 1_700_000_000.0
CAPABILITIES = ("gpu", "mpi", "gcc")
SETS = [frozenset(have) for n in range(4) for have in itertools.combinations(CAPABILITIES, n)]
some = st.sampled_from(SETS)
numbers = range(7)  # of batches

parts = st.builds(
    Resources,
    cores=st.sampled_from((1, 1, 2, 3, 8)),
    memory_mb=st.sampled_from((0, 0, 300, 900)),
    gpus=st.sampled_from((0, 0, 1, 1, 2)),
    gpu_memory_mb=st.sampled_from((0, 16)),
    disk_mb=st.sampled_from((0, 0, 50)),
)
asked = st.one_of(st.none(), parts)


@st.composite
def nodes_of(draw: st.DrawFn, name: str) -> NodeView:
    """Draw a node, and what runs there: nothing that it could not have been given."""
    has, slots = draw(st.sampled_from([*SETS, *[frozenset(CAPABILITIES)] * 8])), draw(st.sampled_from((1, 1, 3)))
    gpus = draw(st.lists(st.sampled_from((0, 8, 16)), min_size=1, max_size=3)) if "gpu" in has else []
    node = NodeView(
        name=name,
        state=NodeState.UP,
        capabilities=has,
        cores=draw(st.sampled_from((2, 4, 8))),
        memory_mb=draw(st.sampled_from((0, 1_024))),
        slots=slots,
        free_slots=tuple(range(slots)),
        gpus=tuple(GpuView(index, memory) for index, memory in enumerate(gpus)),
        disk_mb=draw(st.sampled_from((None, 60))),
    )
    runs = [draw(st.builds(Needs, some, asked)) for _ in range(draw(st.integers(0, 4)))]
    return replace(
        after(node, runs),
        state=draw(st.sampled_from((NodeState.UP,) * 9 + tuple(NodeState))),
        gpus=tuple(replace(gpu, used_by=draw(st.sampled_from((None, None, None, "ann (vmd)")))) for gpu in node.gpus),
        built=draw(st.sampled_from([frozenset(ids) for n in range(3) for ids in itertools.combinations(numbers, n)])),
        failed=draw(st.sampled_from([{}, {}, *({n: "exit 1"} for n in numbers)])),
        holdoff=draw(st.sampled_from([{}, {}, {}, *({n: "no room"} for n in numbers)])),
        probed=draw(st.sampled_from((True,) * 9 + (False,))),
        trial=draw(st.sampled_from((False,) * 9 + (True,))),
        accepts_after=draw(st.sampled_from((0.0,) * 5 + (600.0,))),
    )


def after(node: NodeView, runs: Iterable[Needs]) -> NodeView:
    """The node with these running on it, as far as it has room for them."""
    room, running, gpus_shared = Room(node), dict(node.running), node.gpus_shared
    for needs in runs:
        if room.lacks(needs) is None:
            slot, share = room.take(needs)
            running[slot] = share
            gpus_shared |= share is None and "gpu" in needs.capabilities
    return with_running(replace(node, gpus_shared=gpus_shared), running)


def with_running(node: NodeView, running: dict[int, Share | None]) -> NodeView:
    free = tuple(slot for slot in range(node.slots) if slot not in running)
    return replace(node, running=running, free_slots=free)


@st.composite
def works_of(draw: st.DrawFn, batch_id: int) -> list[WorkView]:
    """Draw a batch, of which some jobs may ask for other things than the rest."""
    age = draw(st.sampled_from((1.0, 60.0, 700.0, 5_000.0, 1.5 * DAY, 5.0 * DAY)))
    who, needs = draw(st.sampled_from(("ana", "ben", "eve"))), draw(some)
    groups = draw(st.lists(asked, min_size=1, max_size=2, unique=True))
    return [
        WorkView(
            batch_id,
            f"ns/b{batch_id}",
            who,
            NOW - age,
            needs | {"gpu"} if resources and resources.gpus else needs,
            ready=draw(st.sampled_from((0, 1, 2, 3, 5, 8))),
            later=draw(st.integers(0, 1)),
            next_at=NOW + 30,
            held=draw(st.integers(0, 1)),
            running=draw(st.integers(0, 1)),
            served_at=draw(st.sampled_from((None, NOW - age / 2))),
            ready_since=draw(st.sampled_from((None, NOW - age / 3))),
            waited=draw(st.sampled_from((60.0, 5_000.0))),
            resources=resources,
        )
        for resources in groups
    ]


@st.composite
def labs(draw: st.DrawFn) -> Snapshot:
    nodes = [draw(nodes_of(f"lab{n}")) for n in range(draw(st.integers(1, 6)))]
    work = [work for n in range(draw(st.integers(1, 7))) for work in draw(works_of(n))]
    usage = {who: draw(st.sampled_from((0.0, 500.0, 650.0, 9_000.0))) for who in ("ana", "ben")}
    return Snapshot(tuple(nodes), tuple(work), usage)


def group(one: WorkView | Placement) -> tuple[int, Resources | None]:
    return one.batch_id, one.resources


def largest_first(asked: Resources | None) -> tuple[float, ...]:
    if asked is None:
        return (-math.inf,)
    return -asked.gpus, -asked.cores, -asked.memory_mb, -asked.gpu_memory_mb, -asked.disk_mb


def plainly(snapshot: Snapshot, now: float) -> list[Placement]:
    """Return what the rules say, with no thought of speed: look at every pair for every job."""
    total = len(snapshot.nodes)
    rooms = {one.name: Room(one) for one in snapshot.nodes if is_open(one)}
    at_first = {name: (room.is_empty, room.cores) for name, room in rooms.items()}

    def level(needs: Needs) -> int:
        offers = sum(
            needs.capabilities <= one.capabilities and Size.of(one).lacks(needs.resources) is None
            for one in snapshot.nodes
        )
        return next(n for n in itertools.count() if offers * 2**n * 3 > total * 2) if offers else 0

    def wealth(capabilities: frozenset[str]) -> int:
        return sum(level(Needs(frozenset({one}))) for one in capabilities)

    def waited(work: WorkView) -> float:
        return now - max(work.submitted_at if work.ready_since is None else work.ready_since, work.served_at or 0.0)

    left = {group(work): work.ready for work in snapshot.work}
    days = {group(work): min(3, (now - (work.ready_since or work.submitted_at)) // DAY) for work in snapshot.work}
    patience = {group(work): max(days[group(work)], waited(work) // DAY) for work in snapshot.work}
    without = {group(work) for work in snapshot.work if work.running == 0 and waited(work) > AFFINITY}
    usage = defaultdict[str, float](float, snapshot.usage)
    given: list[Placement] = []

    def is_barred(work: WorkView, one: NodeView) -> bool:
        is_refused = work.batch_id in {*one.failed, *one.holdoff} or work.waited < one.accepts_after
        return is_refused or not work.capabilities <= one.capabilities

    def hand(work: WorkView, room: Room) -> None:
        one, (slot, share) = room.node, room.take(Needs.of(work))
        given.append(Placement(work.batch_id, one.name, slot, work.resources, share))
        left[group(work)] -= 1
        patience[group(work)] = days[group(work)]
        without.discard(group(work))
        part = 1.0
        if share:
            part = max(share.cores / one.cores, len(share.gpus) / max(1, len(one.gpus)))
            part = max(part, share.memory_mb / one.memory_mb if one.memory_mb else 0.0)
        usage[work.submitter] += TURN * part

    def give(candidates: list[WorkView], at_most: int) -> None:
        while at_most:
            at_most -= 1
            pairs = [
                (
                    doublings(usage[work.submitter]) - patience[group(work)],
                    wealth(room.node.capabilities) - wealth(work.capabilities),
                    not (work.batch_id in room.node.built or group(work) in without),
                    usage[work.submitter],
                    work.submitted_at,
                    work.batch_id,
                    *largest_first(work.resources),
                    work.batch_id not in room.node.built,
                    *(at_first[name] if work.resources else (room.node.slots - room.slots, -room.node.cores)),
                    name,
                    which,
                )
                for which, work in enumerate(candidates)
                if left[group(work)]
                for name, room in rooms.items()
                if not is_barred(work, room.node) and room.lacks(Needs.of(work)) is None
            ]
            if not pairs:
                return
            *_, name, which = min(pairs)
            hand(candidates[which], rooms[name])

    alike = defaultdict[Needs, list[WorkView]](list)
    for work in snapshot.work:
        alike[Needs.of(work)].append(work)
    starved = {}
    for needs, works in alike.items():
        if any(work.ready for work in works):
            latest = max((work.served_at for work in works if work.served_at is not None), default=0.0)
            starved[needs] = min(now - latest, max(waited(work) for work in works if work.ready))

    def asks_for_more(mine: Resources | None) -> bool:
        for other in {needs.resources for needs in starved}:
            if other is None:
                if mine is not None and any(one.slots > 1 for one in snapshot.nodes):
                    return True
            elif mine is None or any(a < b for a, b in zip(largest_first(mine), largest_first(other), strict=True)):
                return True
        return False

    def turn(work: WorkView) -> tuple[float, ...]:
        return doublings(usage[work.submitter]) - patience[group(work)], work.submitted_at, work.batch_id

    kept: set[str] = set()
    for needs in sorted(starved, key=lambda n: (-starved[n], sorted(n.capabilities), largest_first(n.resources))):
        before = len(given)
        if starved[needs] > DAY:
            give(alike[needs], 1)
        if len(given) > before or starved[needs] <= HOUR or kept or not asks_for_more(needs.resources):
            continue
        nearest = sorted(
            rooms, key=lambda name: (wealth(rooms[name].node.capabilities), rooms[name].shortfall(needs), name)
        )
        for room in (rooms[name] for name in nearest):
            works = [work for work in alike[needs] if left[group(work)] and not is_barred(work, room.node)]
            if works and room.emptied().lacks(needs) is None:
                if room.lacks(needs) is None:
                    hand(min(works, key=turn), room)
                else:
                    room.keep(needs)
                    kept.add(room.node.name)
                break
    for rank in sorted({level(Needs.of(work)) for work in snapshot.work}, reverse=True):
        give([work for work in snapshot.work if level(Needs.of(work)) == rank], 1_000)
    return given


@settings(max_examples=250, deadline=None)
@given(labs())
def test_the_fast_way_gives_what_the_rules_say(snapshot: Snapshot) -> None:
    assert place(snapshot, NOW) == plainly(snapshot, NOW)


@settings(max_examples=150, deadline=None)
@given(labs())
def test_a_node_never_gives_more_than_it_has_nor_anything_twice(snapshot: Snapshot) -> None:
    placements = place(snapshot, NOW)
    wanted = {group(work): work.ready for work in snapshot.work}
    assert all(count <= wanted[key] for key, count in Counter(map(group, placements)).items())
    needs = {group(work): work.capabilities for work in snapshot.work}
    for one in snapshot.nodes:
        fresh = [placed for placed in placements if placed.node == one.name]
        slots = [*one.running, *(placed.slot for placed in fresh)]
        assert len(set(slots)) == len(slots)
        shares = [*one.running.values(), *(placed.share for placed in fresh)]
        parts, wholes = [share for share in shares if share is not None], shares.count(None)
        assert wholes <= one.slots
        assert not (one.slots == 1 and wholes and parts)
        if parts:
            assert sum(share.cores for share in parts) + wholes * max(1, one.cores // one.slots) <= one.cores
        if one.memory_mb:
            assert sum(share.memory_mb for share in parts) + wholes * (one.memory_mb // one.slots) <= one.memory_mb
        if one.disk_mb is not None:
            assert sum(share.disk_mb for share in parts) <= one.disk_mb
        given_gpus = [index for share in parts for index in share.gpus]
        assert len(set(given_gpus)) == len(given_gpus)
        memory = {gpu.index: gpu.memory_mb for gpu in one.gpus}
        for placed in fresh:
            resources, share = placed.resources, placed.share
            assert (resources is None) == (share is None)
            if resources is None or share is None:
                shares_gpus = bool(one.gpus) and "gpu" in needs[group(placed)]
                assert not (shares_gpus and given_gpus)
                assert placed.slot in one.free_slots
                continue
            assert share == Share(resources.cores, resources.memory_mb, share.gpus, resources.disk_mb)
            assert len(share.gpus) == resources.gpus
            assert all(not memory[index] or memory[index] >= resources.gpu_memory_mb for index in share.gpus)
            assert not any(gpu.used_by for gpu in one.gpus if gpu.index in share.gpus)
            assert not (share.gpus and one.gpus_shared)


@settings(max_examples=100, deadline=None)
@given(labs())
def test_place_never_does_what_explain_says_cannot_be(snapshot: Snapshot) -> None:
    given_to = {(one.batch_id, one.node) for one in place(snapshot, NOW)}
    for one in snapshot.nodes:
        for work in snapshot.work:
            said = {reason.code for reason in explain(snapshot, work.batch_id, NOW) if reason.node == one.name}
            assert (Code.NEXT in said) == ((work.batch_id, one.name) in given_to)


@settings(max_examples=100, deadline=None)
@given(labs())
def test_every_waiting_batch_says_why_and_names_every_node_that_takes_none_of_it(snapshot: Snapshot) -> None:
    given_to = Counter(map(group, place(snapshot, NOW)))
    for batch_id in {work.batch_id for work in snapshot.work}:
        works = [work for work in snapshot.work if work.batch_id == batch_id]
        reasons = explain(snapshot, batch_id, NOW)
        assert bool(reasons) == any(work.ready or work.later or work.held for work in works)
        assert [reason.node for reason in reasons[:1]] == [None] * bool(reasons)
        if any(work.ready > given_to[group(work)] for work in works):
            assert {reason.node for reason in reasons if reason.node} == {one.name for one in snapshot.nodes}
    for one in snapshot.nodes:
        assert explain_node(snapshot, one.name, NOW)


@settings(max_examples=100, deadline=None)
@given(labs())
def test_nothing_stays_free_that_a_ready_job_could_use_but_what_is_kept_for_a_large_one(snapshot: Snapshot) -> None:
    deal = Deal(snapshot, NOW)
    placements = list(deal.placements())
    got = Counter(map(group, placements))
    unserved = [work for work in snapshot.work if work.ready > got[group(work)]]
    assert len(deal.kept) <= 1
    needs = {group(work): Needs.of(work) for work in snapshot.work}
    for one in snapshot.nodes:
        if is_open(one) and one.name not in deal.kept:
            then = after(one, (needs[group(placed)] for placed in placements if placed.node == one.name))
            assert len(then.running) == len(one.running) + sum(placed.node == one.name for placed in placements)
            assert all(refusal(then, work) is not None for work in unserved)


@settings(max_examples=100, deadline=None)
@given(labs(), st.randoms(use_true_random=False))
def test_the_same_lab_gives_the_same_answer_in_whatever_order_it_is_told(
    snapshot: Snapshot, rng: random.Random
) -> None:
    nodes, work = list(snapshot.nodes), list(snapshot.work)
    rng.shuffle(nodes)
    rng.shuffle(work)
    assert place(Snapshot(tuple(nodes), tuple(work), snapshot.usage), NOW) == place(snapshot, NOW)


# --- nobody starves ---

JOB = DAY / 4  # the longest


@st.composite
def full_labs(draw: st.DrawFn) -> tuple[Snapshot, dict[tuple[int, Resources | None], float]]:
    """Draw a lab in which nobody's work ever ends, and how long a job of each group takes."""
    nodes = [draw(nodes_of(f"lab{n}")) for n in range(draw(st.integers(1, 4)))]
    open_to_all = {"state": NodeState.UP, "probed": True, "trial": False, "failed": {}, "holdoff": {}}
    nodes = [replace(one, **open_to_all, accepts_after=0.0) for one in nodes]  # type: ignore[arg-type]
    nodes = [replace(with_running(one, {}), gpus_shared=False) for one in nodes]
    batches = [draw(works_of(n)) for n in range(draw(st.integers(2, 6)))]
    work = [
        replace(each, ready=1_000_000, later=0, held=0, running=0, served_at=None, submitted_at=NOW, ready_since=None)
        for works in batches
        for each in works
    ]
    usage = {who: draw(st.sampled_from((0.0, 9_000.0, 1e6))) for who in ("ana", "ben")}
    takes = {group(each): draw(st.sampled_from((JOB / 4, JOB / 2, JOB))) for each in work}
    return Snapshot(tuple(nodes), tuple(work), usage), takes


@settings(max_examples=25, deadline=None)
@given(full_labs())
def test_nobody_starves_though_nobody_else_ever_has_enough(
    drawn: tuple[Snapshot, dict[tuple[int, Resources | None], float]],
) -> None:
    snapshot, takes = drawn
    nodes, usage = {one.name: one for one in snapshot.nodes}, defaultdict[str, float](float, snapshot.usage)
    work = {group(each): each for each in snapshot.work}
    able = {
        key
        for key, each in work.items()
        if any(each.capabilities <= one.capabilities and not Room(one).lacks(Needs.of(each)) for one in nodes.values())
    }
    last, longest = dict.fromkeys(able, NOW), 0.0
    ends: list[tuple[float, str, int, Placement]] = []
    for now in (NOW + JOB / 4 * n for n in range(480)):
        while ends and ends[0][0] <= now:
            _, name, slot, ended = heapq.heappop(ends)
            left = (Needs.of(work[group(other)]) for _, there, _, other in ends if there == name)
            nodes[name] = without(nodes[name], slot, left)
            each = work[group(ended)]
            usage[each.submitter] += takes[group(ended)]
            work[group(ended)] = replace(each, running=each.running - 1)
        for one in place(Snapshot(tuple(nodes.values()), tuple(work.values()), usage), now):
            needs = Needs.of(work[group(one)])
            nodes[one.node] = after(nodes[one.node], [needs])
            heapq.heappush(ends, (now + takes[group(one)], one.node, one.slot, one))
            each = work[group(one)]
            work[group(one)] = replace(each, running=each.running + 1, served_at=now)
            last[group(one)] = now
        longest = max([longest, *(now - at for at in last.values())])
    # As many days as doublings, and then every other group once, each no later than a day and a job after the last.
    assert longest <= DAY * (4 + doublings(max(snapshot.usage.values()) + 30 * DAY)) + len(work) * (DAY + JOB)


def without(node: NodeView, slot: int, left: Iterable[Needs]) -> NodeView:
    """The node when a job has ended; `left`: what the others on it need."""
    running = {number: share for number, share in node.running.items() if number != slot}
    shares_gpus = any(needs.resources is None and "gpu" in needs.capabilities for needs in left)
    return replace(with_running(node, running), gpus_shared=shares_gpus)
