"""A cluster as a node: the same verbs, on its login machine, where Slurm starts what the room asks for.

The folders stay the truth about attempts, and the wrapper's claim is what makes a start the only one. What Slurm says
is a second witness: of attempts that wait, and of those that will never write a record. Its silence is no evidence.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

from distribute_ssh.errors import NodeError, ScratchError
from distribute_ssh.model.cluster import Cluster, block
from distribute_ssh.model.inventory import NodeEntry
from distribute_ssh.model.job import Job, State
from distribute_ssh.model.lease import Lease
from distribute_ssh.model.resources import Resources
from distribute_ssh.model.slurm import Slurm, directives, effective
from distribute_ssh.node import wire
from distribute_ssh.node.channel import Channel
from distribute_ssh.node.given import Given
from distribute_ssh.node.link import Link
from distribute_ssh.node.probe import Facts, Gpu
from distribute_ssh.node.process import GRACE, Listing, Room
from distribute_ssh.plan.reconcile import REFUSED, Sighting

log = logging.getLogger(__name__)

MARK = "#SBATCH --no-requeue"
"""How a script begins that Slurm is to run. A node that fails is our own queue's business: Slurm would begin again what
has its claim already."""
SHARED = "shared"  # the boot id of a folder that is not of one machine
LOOK_EVERY = 5.0  # seconds between questions to Slurm's controller, which serves everybody
AT_ONCE = 64  # tasks of one array
SUBMIT_LIMIT = 600.0  # seconds; a controller under load makes its clients wait
CANCEL_LIMIT = 420.0  # likewise, and Slurm waits between TERM and KILL as its site says
GATHER = 0.1  # seconds the end of one waits for others, to be asked for together
LAG, LAG_NFS = 5.0, 65.0  # seconds until a record that another machine wrote is seen; NFS remembers for a minute
FORGOTTEN = 60.0  # seconds until it is believed that Slurm knows nothing of a job: a controller that begins may not yet
ENDING = 30.0  # seconds Slurm may take to say why what failed has failed
PATIENCE = 20.0  # seconds after which a reason that no time mends is believed

LIVE = frozenset(
    {"PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING"}
    | {"REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT"}
)
WAITS = frozenset({"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD"})
ENDED_BY = {"TIMEOUT": State.TIMEOUT, "DEADLINE": State.TIMEOUT, "CANCELLED": State.KILLED}
"""What somebody wanted: an end that is not tried again."""
LOST = frozenset({"NODE_FAIL", "BOOT_FAIL", "PREEMPTED", "REVOKED"})
"""What nobody wanted: whatever the job printed or returned when it was swept away."""

HOPELESS = frozenset(
    {"PartitionConfig", "PartitionTimeLimit", "PartitionNodeLimit", "BadConstraints", "InvalidAccount", "InvalidQOS"}
    | {"AccountNotAllowed", "QOSNotAllowed", "AssocMaxWallDurationPerJobLimit", "QOSMaxWallDurationPerJobLimit"}
    | {"AssocMaxCpuPerJobLimit", "QOSMaxCpuPerJobLimit", "AssocMaxNodePerJobLimit", "QOSMaxNodePerJobLimit"}
    | {"AssocMaxMemPerJob", "QOSMaxMemoryPerJob", "QOSMinCpuNotSatisfied"}
)
"""Why jobs wait for ever, unless somebody changes the partition or the job."""

PASSING = (
    *("contact slurm controller", "Unable to contact", "timed out", "temporarily", "Connection refused"),
    *("standby", "Zero Bytes", "authentication", "credential", "Unexpected message", "Communication connection"),
    *("submit limit", "MaxSubmit", "job limit", "Transport endpoint", "not responding", "Slurm is shutting down"),
)
"""What `sbatch` says where a second try may go better."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What Slurm says of one attempt."""

    id: str  # "-": nobody knows whether it was submitted
    state: str  # Slurm's own word; NONE: it knows no such job
    nodes: str = "-"
    reason: str = "-"

    @property
    def words(self) -> str:
        """For people."""
        if self.state == "NONE":
            return "Slurm knows nothing of it any more, and it left no record"
        where = "" if self.nodes == "-" else f" on {self.nodes}"
        return f"Slurm ended it: {self.state}{where}"


def weigh(
    sighting: Sighting | None, seen: Seen | None, *, answers: bool, over_for: float, lag: float
) -> Sighting | None:
    """What is so of an attempt: what its folder says, and beside it Slurm.

    `seen` None: it is none of Slurm's, or Slurm did not answer (`answers`). `over_for`: for how many seconds Slurm has
    not had it any more, or the folder says that it ended, whichever came last; `lag` is how long a record may take.
    """
    if sighting is None:
        return None
    if seen is None:
        # A process of another machine looks gone from here.
        alive = sighting.state in ("claimed", "gone") and not answers
        return replace(sighting, state="running") if alive else sighting
    if sighting.state == "ended":
        return _ended(sighting, seen, over_for)
    if seen.state in LIVE:
        if seen.state in WAITS:
            why = "" if seen.reason in ("-", "None") else f": {seen.reason}"
            return replace(sighting, note=f"waits in Slurm{why}") if sighting.state == "unstarted" else sighting
        if sighting.state == "unstarted":
            return sighting
        return replace(sighting, state="running", paused=seen.state == "SUSPENDED")
    if sighting.state == "unstarted" and seen.state == "NONE" and seen.id == "-":
        return sighting  # it was never submitted
    if sighting.state != "unstarted":
        sighting = replace(sighting, state="running")
    if over_for < (max(lag, FORGOTTEN) if seen.state == "NONE" else lag):
        return sighting
    if ending := ENDED_BY.get(seen.state):
        return replace(sighting, ending=ending, note=seen.words)
    if sighting.state == "unstarted" and seen.state == "FAILED":
        return replace(sighting, state="gone", note=f"{seen.nodes} did not find it: is `scratch` a folder they share?")
    return replace(sighting, state="gone", note=seen.words)


def _ended(sighting: Sighting, seen: Seen, over_for: float) -> Sighting:
    if sighting.exit is None or not sighting.exit.isdigit() or sighting.exit == "0":
        return sighting
    if seen.state in LIVE and over_for < ENDING:
        return Sighting(sighting.token, "running")  # it failed, and Slurm is about to say why
    if seen.state in LOST:
        return Sighting(sighting.token, "gone", note=seen.words)
    return replace(sighting, ending=ENDED_BY.get(seen.state))


def wishes(cluster: Cluster, cores: int | None, job: Job) -> Slurm:
    """What Slurm is told of a job: what the jobs file says, then what the inventory does."""
    resources = job.resources or (Resources(cores=cores) if cores else None)
    return effective(cluster.slurm, block(job.slurm), "", time_limit=job.time_limit, resources=resources)


def build_wishes(cluster: Cluster, cores: int | None, jobs: Sequence[Job]) -> Slurm:
    """What Slurm is told of a build: what all the jobs that wait for it say alike, then what the inventory does."""
    common = set.intersection(*({*(job.slurm or {}).items()} for job in jobs)) if jobs else set()
    return effective(cluster.slurm, block(dict(common)), "", resources=Resources(cores=cores) if cores else None)


def cores_of(slurm: Slurm) -> int:
    """How many cores a job gets that is submitted so."""
    return max(1, (slurm.ntasks or 1) * (slurm.cpus_per_task or 1))


def gpus_of(slurm: Slurm) -> int:
    """How many GPUs a job asks for that is submitted so: `gres: gpu:a100:2`, `gpus: 2`."""
    asked = slurm.gpus or next((each for each in (slurm.gres or "").split(",") if each.startswith("gpu")), "")
    number = asked.partition("(")[0].rpartition(":")[2]
    return int(number) if number.isdecimal() else bool(asked)


def complaint(text: str) -> str:
    """What `sbatch` complained of, without its own name."""
    parts = [part.strip() for part in text.split("sbatch: error: ")]
    return "; ".join(part for part in parts if part) or "sbatch failed and did not say why"


def is_passing(text: str) -> bool:
    """Whether what `sbatch` says may be otherwise in a while."""
    return any(words.lower() in text.lower() for words in PASSING)


def open_room(entry: NodeEntry, link: Link, channel: Channel, queue_id: str, facts: Facts) -> Room:
    """Our folder on a node, of whichever kind it is."""
    if entry.cluster is None:
        return Room(link, channel, queue_id=queue_id, has_tar=facts.has_tar, has_sha256sum=facts.sha256sum)
    return SlurmRoom(entry, entry.cluster, link, channel, queue_id, facts)


_EXAMINE = """
command -v sbatch > /dev/null || PATH=$PATH:$("${SHELL:-/bin/sh}" -lc 'printf "\\n%s" "$PATH"' < /dev/null | tail -n 1)
sinfo --version && timeout 20 sinfo -h -o '%P %a %l %D' 2>&1
"""


async def examine(link: Link) -> tuple[bool, str, str | None]:
    """Whether Slurm answers on a login machine, with its partitions, and what to do where it does not."""
    ended = await link.run(_EXAMINE, limit=60)
    version, *partitions = ended.stdout.decode(errors="replace").split("\n", 1)
    shown = ", ".join("".join(c for c in line if c.isprintable()) for line in "".join(partitions).split("\n") if line)
    if ended.ok:
        return True, f"{version}; its partitions, with state, time limit and nodes: {shown}", None
    if not version:
        remedy = "set the account's PATH in its ~/.profile so that it is"
        return False, "no sinfo and no sbatch is found, not in a login shell either", remedy
    return False, f"{version} does not answer: {shown}", "does `sinfo` work for this account there?"


class SlurmRoom(Room):
    """Our folder on a cluster, seen from its login machine."""

    pushes = False

    def __init__(
        self, entry: NodeEntry, cluster: Cluster, link: Link, channel: Channel, queue_id: str, facts: Facts
    ) -> None:
        super().__init__(link, channel, queue_id=queue_id, has_tar=facts.has_tar, has_sha256sum=facts.sha256sum)
        self._cluster = cluster
        self._cores = entry.cores
        self._queue = queue_id
        self._lag = LAG_NFS if facts.scratch_type.startswith("nfs") else LAG
        self._seen: dict[str, Seen] = {}
        self._answers = False
        self._asked = float("-inf")
        self._over: dict[str, float] = {}  # token -> since when Slurm has it no more, or its folder says that it ended
        self._cancelling = asyncio.Lock()
        self._to_cancel: set[str] = set()
        self._uncancelled: set[str] = set()
        self._hopeless: dict[str, float] = {}  # token -> since when it waits for what will not come

    # --- what is to run ---

    def part(self, job: Job, part: Given) -> Given:
        """What a job is given; of GPUs a batch that needs `gpu` gets one, if nobody says how many.

        Slurm sees to it that it gets no more, and that it finds them.
        """
        slurm = wishes(self._cluster, self._cores, job)
        return Given(cores_of(slurm), gpus=tuple(map(Gpu, range(gpus_of(slurm) or bool(part.gpus)))))

    def build_cores(self, jobs: Sequence[Job], cores: int) -> int:  # noqa: ARG002  # likewise
        """How many cores a build gets that these jobs wait for."""
        return cores_of(build_wishes(self._cluster, self._cores, jobs))

    def dressed(self, script: str, job: Job, part: Given) -> str:
        """The script of a job that gets this part, with what Slurm is told of it."""
        slurm = wishes(self._cluster, self._cores, job)
        if part.gpus and not gpus_of(slurm):
            slurm = replace(slurm, gres=",".join(filter(None, (slurm.gres, f"gpu:{len(part.gpus)}"))))
        lines = _lines(slurm)
        if job.warn_signal and job.time_limit:
            lines.append(f"#WARN {int(job.time_limit - job.warn_before)} {job.warn_signal}")
        return "\n".join([*lines, script])

    def dressed_build(self, script: str, jobs: Sequence[Job]) -> str:
        """The script of a build that these jobs wait for, likewise; as it is if the login machine shall run it."""
        if self._cluster.build == "login":
            return script
        return "\n".join([*_lines(build_wishes(self._cluster, self._cores, jobs)), script])

    async def start_all(self, scripts: Mapping[str, str]) -> dict[str, NodeError]:
        """Submit them, those that want the same of Slurm as one array; a build for the login machine runs there."""
        ours = {token: script for token, script in scripts.items() if script.startswith(MARK)}
        failed = await super().start_all({token: scripts[token] for token in scripts.keys() - ours.keys()})
        written = await asyncio.gather(
            *(self.channel.request("write", token, wire.escape(script)) for token, script in ours.items())
        )
        alike = defaultdict[tuple[str, ...], list[str]](list)
        for (token, script), (_, end) in zip(ours.items(), written, strict=True):
            if end.ok:
                alike[_options(script)].append(token)
            else:
                failed[token] = self._full()
        for tokens in alike.values():
            for first in range(0, len(tokens), AT_ONCE):
                some = tokens[first : first + AT_ONCE]
                failed |= await self._submit(some)
        return failed

    async def _submit(self, tokens: Sequence[str]) -> dict[str, NodeError]:
        rows, end = await self.channel.request("slurm", "submit", *tokens, limit=SUBMIT_LIMIT)
        self._asked = float("-inf")
        if end.ok:
            return {}
        node = self.link.node
        if end.detail == "full":
            return dict.fromkeys(tokens, self._full())
        said = next((" ".join(row.fields[1:]) for row in rows if row.kind == "refusal"), "")
        if end.detail == "silent" or is_passing(said):
            why = complaint(said) if said else "it does not answer"
            return dict.fromkeys(tokens, NodeError(f"{node}: Slurm takes no jobs now: {why}"))
        if len(tokens) > 1 and "array" in said:  # some sites allow none, or small ones
            alone = [await self._submit([token]) for token in tokens]
            return {token: error for failed in alone for token, error in failed.items()}
        log.warning("%s: Slurm refused %d jobs: %s", node, len(tokens), complaint(said))
        await self._refuse(tokens, complaint(said))
        return {}

    async def _refuse(self, tokens: Sequence[str], why: str) -> None:
        text = wire.word(f"{why}\n", 400)
        await self.channel.request("slurm", "refuse", text, *tokens, limit=SUBMIT_LIMIT)

    def _full(self) -> ScratchError:
        return ScratchError(f"{self.link.node}: no room left in {self.channel.root}", hint="free some space there")

    # --- what became of it ---

    async def look(self, tokens: Sequence[str]) -> tuple[dict[str, Sighting | None], Lease | None]:
        """What folders and Slurm tell of these attempts."""
        found, lease = await super().look(tokens)
        return await self._weighed(found), lease

    async def list(self) -> Listing:
        """Look at all there is."""
        there = await super().list()
        return replace(there, sightings=await self._weighed(dict(there.sightings)))

    async def kill(self, token: str, grace: int = GRACE) -> int:
        """Cancel an attempt and wait until Slurm has it no more; 1 where it still has."""
        self._to_cancel.add(token)
        async with self._cancelling:
            # A kill of a batch comes as one of each job; Slurm is asked for all of them together.
            await asyncio.sleep(GATHER)
            while token in self._to_cancel:
                tokens = sorted(self._to_cancel)[:AT_ONCE]
                self._to_cancel.difference_update(tokens)
                rows, end = await self.channel.request("slurm", "cancel", *tokens, limit=CANCEL_LIMIT)
                left = {row.fields[0] for row in rows if row.kind == "kept"} if end.ok else {*tokens}
                self._uncancelled = (self._uncancelled - {*tokens}) | left
            self._asked = float("-inf")
        if token in self._uncancelled:
            return 1
        return await super().kill(token, grace)

    async def warn(self, token: str, signal: str) -> None:
        """Do nothing: who runs it on its node warns it, see batch.sh."""

    async def _weighed(self, found: dict[str, Sighting | None]) -> dict[str, Sighting | None]:
        if not any(map(_asks, found.values())):
            return found
        now = time.monotonic()
        if now - self._asked >= LOOK_EVERY:
            await self._ask()
        weighed = {}
        for token, sighting in found.items():
            seen = self._seen.get(token) if self._answers else None
            if seen is None or (seen.state in LIVE and (sighting is None or sighting.state != "ended")):
                self._over.pop(token, None)
            since = self._over.setdefault(token, now) if seen is not None else now
            weighed[token] = weigh(sighting, seen, answers=self._answers, over_for=now - since, lag=self._lag)
        await self._give_up(found, now)
        return weighed

    async def _ask(self) -> None:
        rows, end = await self.channel.request("slurm", "see", self._queue, limit=120)
        self._asked = time.monotonic()
        if end.ok != self._answers:
            log.info("%s: Slurm %s", self.link.node, "answers" if end.ok else "does not answer")
        self._answers = end.ok
        if end.ok:
            self._seen = read_rows(row.fields for row in rows if row.kind == "slurm")
            self._over = {token: at for token, at in self._over.items() if token in self._seen}

    async def _give_up(self, tokens: Mapping[str, Sighting | None], now: float) -> None:
        """Take back what would wait in Slurm for ever."""
        for token in tokens:
            seen = self._seen.get(token)
            if seen is None or seen.state != "PENDING" or seen.reason not in HOPELESS:
                self._hopeless.pop(token, None)
            elif now - self._hopeless.setdefault(token, now) > PATIENCE:
                self._hopeless.pop(token)
                await self._refuse([token], f"it would wait for ever: {seen.reason}")
                self._asked = float("-inf")


def read_rows(rows: Iterable[tuple[str, ...]]) -> dict[str, Seen]:
    """What Slurm says, by attempt; of two jobs for one attempt the one that it still has."""
    found: dict[str, Seen] = {}
    for token, number, state, nodes, *reason in (row for row in rows if len(row) > 3):
        seen = Seen(number, state, nodes, " ".join(reason) or "-")
        if token not in found or found[token].state not in LIVE:
            found[token] = seen
    return found


def _asks(sighting: Sighting | None) -> bool:
    """Whether Slurm has to be asked of it."""
    if sighting is None:
        return False
    return sighting.state != "ended" or sighting.exit not in ("0", "stage", "lost", REFUSED)


def _lines(slurm: Slurm) -> list[str]:
    return [MARK, *directives(slurm, without=("job_name", "output"))]


def _options(script: str) -> tuple[str, ...]:
    return tuple(takewhile(lambda line: line.startswith("#"), script.splitlines()))
