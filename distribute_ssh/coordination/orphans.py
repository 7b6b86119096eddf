"""What lies or runs on a node and the queue does not know: taken up again where its job waits, or else ended, brought
to storage if it holds results, and wiped.

A queue that was restored from a backup, or made anew, does not know the attempts that were begun since then; a start
that hung in a line may arrive after its attempt was given up and wiped. The first kind may be days of work or hold the
only copy of a result, the second never does: its job ran, or runs, as another attempt.
"""

from __future__ import annotations

import shlex
from collections.abc import Awaitable, Callable, Iterable

from distribute_ssh.coordination.books import Books
from distribute_ssh.coordination.evidence import Claim, Connected, Swept
from distribute_ssh.coordination.work import Work
from distribute_ssh.errors import StorageError, UnreachableError
from distribute_ssh.model.job import AttemptState, Batch, BuildState, State
from distribute_ssh.model.layout import attempt_folder, job_output, orphan
from distribute_ssh.model.names import check_name
from distribute_ssh.model.resources import Resources, Share
from distribute_ssh.node.probe import Facts
from distribute_ssh.node.process import Listing, Room
from distribute_ssh.plan.recovery import NO_FILES
from distribute_ssh.storage.archive import Parcel, archive
from distribute_ssh.storage.folder import Storage
from distribute_ssh.storage.record import SCHEMA

# --- what a tick makes of them ---


def find(books: Books, item: Connected) -> None:
    """Remember which of what was found on a node is nobody's, and whether it may hold a result."""
    found = {}
    for token in {*item.sightings, *item.strays} - {*books.attempts, *books.builds}:
        sighting = item.sightings.get(token)
        may_hold = sighting is not None and sighting.state != "unstarted"
        found[token] = may_hold and not books.queue.was_known(token)
    books.memory.orphans[item.node] = found


def claimed(item: Connected) -> list[str]:
    """Of what was found, that of which the script says whose it is: builds first, for attempts run in them, and what
    runs last, for what ended needs its slot no more.
    """

    def rank(token: str) -> tuple[bool, bool, str]:
        sighting = item.sightings.get(token)
        return item.claims[token].job is not None, sighting is not None and sighting.state == "running", token

    return sorted(item.claims, key=rank)


def adopt(books: Books, item: Connected, token: str) -> bool:
    """Take up again what was begun for a job that waits, or for its batch, and of the very same inputs; True if so."""
    claim, sighting = item.claims[token], item.sightings.get(token)
    if books.queue.was_known(token) or sighting is None or sighting.state not in ("running", "ended"):
        return False
    batch = books.queue.batch(f"{claim.namespace}/{claim.batch}")
    if batch is None or batch.token != claim.batch_token:
        return False
    if claim.job is None:
        build = books.change.build_start(batch.id, item.node, token, batch.build_hash, books.now)
        if build is not None:
            books.batches[batch.id], books.builds[token] = batch, build
        return build is not None
    return _adopt_attempt(books, item, token, batch)


def _adopt_attempt(books: Books, item: Connected, token: str, batch: Batch) -> bool:
    claim = item.claims[token]
    job = books.queue.job(batch.id, claim.job or "")
    if job is None or job.input_hash != claim.input_hash or job.request is not None or claim.number <= job.attempt:
        return False
    has_no_files = job.state is State.LOST and job.reason == NO_FILES  # and this attempt has no need of them any more
    here = (build for build in books.builds.values() if build.node == item.node and build.batch_id == batch.id)
    if not (job.state is State.QUEUED or has_no_files) or all(build.state is not BuildState.BUILT for build in here):
        return False
    if has_no_files:
        books.change.retry(batch.id, [job.name], "distribute", books.now)
    share = _share(job.resources, item.facts) if job.resources else None
    attempt = books.change.place(job.id, token, item.node, claim.slot, books.now, share, number=claim.number)
    if attempt is None:
        return False
    books.attempts[token] = attempt
    books.batches[batch.id] = books.queue.batch_by_id(batch.id) or batch
    if taken := books.queue.job_by_id(job.id):
        books.jobs[job.id] = taken
    books.move_attempt(attempt, AttemptState.STARTING, boot_id=item.boot_id)
    what = f"{job.name} went on there unknown to the queue, and is taken up again"
    books.change.tell_act(books.now, "distribute", what, node=item.node, batch_id=batch.id)
    return True


def _share(asked: Resources, facts: Facts) -> Share:
    """What it has, as far as that can be said: which of the GPUs it was given, nobody knows any more, so it has all."""
    gpus = tuple(gpu.index for gpu in facts.gpus) if asked.gpus else ()
    return Share(asked.cores, asked.memory_mb, gpus, asked.disk_mb)


def take(books: Books, item: Swept) -> None:
    """Write down what became of one."""
    books.memory.orphans.get(item.node, {}).pop(item.token, None)
    batch = books.queue.batch(item.batch) if item.batch else None
    books.change.tell_act(books.now, "distribute", item.what, node=item.node, batch_id=batch.id if batch else None)


# --- what is done with them, on their node ---


async def sweep(
    room: Room, storage: Callable[[], Awaitable[Storage]], facts: Facts, token: str, may_hold: bool, reserve: int
) -> Swept | None:
    """End one, bring what it holds to storage, wipe it; None where it would not end, or its files would not go.

    Raises UnreachableError, and StorageError with the node's copy untouched.
    """
    node = room.link.node
    left = await room.kill(token)
    if left and may_hold:
        return None  # what it saved is set aside once all of it has ended
    what = f"an attempt on {node} that belonged to nobody was ended"
    if left:
        what += f"; {left} of its processes would not go"
    claim = await _claim(room, token) if may_hold else None
    if claim and claim.job:
        namespace, batch, job = claim.namespace, claim.batch, claim.job
        folder = orphan(job, token)
        record = {
            "schema": SCHEMA, "namespace": namespace, "batch": batch, "job": job, "attempt_id": token, "node": node,
            "state": "lost", "reason": "found on its node; the queue did not know it",
        }  # fmt: skip
        parcel = Parcel(token, namespace, batch, folder, job_output(job), record)
        root = room.channel.root.encode("utf-8", "surrogateescape")
        (outcome,) = await archive(room.link, root, [parcel], await storage(), facts=facts, reserve=reserve)
        if not outcome.published:
            raise StorageError(outcome.reason or f"{node}: {token} was not published")
        what += f"; what it held is in {namespace}/{batch}/{folder}"
    if await room.drop([token]):
        return None
    return Swept(node, token, what, f"{claim.namespace}/{claim.batch}" if claim else None)


async def clear_unknown(room: Room, there: Listing, work: Work) -> None:
    """Remove the folders of batches that nothing of ours stands for; not before all orphans were swept, which may save
    their results in one. Raises UnreachableError.
    """
    if there.sightings.keys() <= work.tokens and (unknown := work.unknown(there.batches)):
        await room.clear(unknown)


async def claims(room: Room, tokens: Iterable[str]) -> dict[str, Claim]:
    """Whose attempts and builds these are; what never was ours is left out. Raises UnreachableError."""
    found = {token: await _claim(room, token) for token in sorted(tokens)}
    return {token: claim for token, claim in found.items() if claim}


async def _claim(room: Room, token: str) -> Claim | None:
    script = f"{shlex.quote(room.channel.root)}/{attempt_folder(token)}/run.sh"
    says = "s/^slot=batches./SLOT=/p; s/^ *export DISTRIBUTE_//p"
    ended = await room.link.run(f"[ ! -e {script} ] || exec sed -n '{says}' {script}")
    if not ended.ok:
        raise UnreachableError(f"{room.link.node}: {attempt_folder(token)} could not be read")
    said: dict[str, str] = {}
    for line in ended.stdout.decode(errors="replace").splitlines():
        name, _, value = line.partition("=")
        try:
            # Of `slot` the first is ours, it is the script's first line; else the last: we come after the job's own.
            said[name] = said.get("SLOT") or value if name == "SLOT" else "".join(shlex.split(value))
        except ValueError:
            continue
    namespace, batch, job = (said.get(each, "") for each in ("NAMESPACE", "BATCH", "JOB_NAME"))
    if any(map(check_name, (namespace, batch, job or batch))):
        return None
    batch_token, _, slot = said.get("SLOT", "").partition("/slot-")
    return Claim(
        namespace,
        batch,
        job or None,
        number=_number(said.get("ATTEMPT_NUMBER", "")),
        batch_token=batch_token,
        slot=_number(slot),
        input_hash=said.get("INPUT_HASH", ""),
    )


def _number(text: str) -> int:
    """What a node says is a number; 0 for what is none of ours, which have few digits."""
    return int(text) if text.isdecimal() and len(text) < 10 else 0
