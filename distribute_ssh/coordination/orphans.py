"""What lies or runs on a node and belongs to nobody any more: ended, brought to storage if it holds results, wiped.

A queue that was restored from a backup does not know the attempts that were begun since then; a start that hung in a
line may arrive after its attempt was given up and wiped. The first kind may hold the only copy of a result, the second
never does: its job ran, or runs, as another attempt.
"""

from __future__ import annotations

import shlex
from collections.abc import Awaitable, Callable

from distribute_ssh.coordination.books import Books
from distribute_ssh.coordination.evidence import Connected, Swept
from distribute_ssh.coordination.work import Work
from distribute_ssh.errors import StorageError, UnreachableError
from distribute_ssh.model.layout import attempt_folder, job_output, orphan
from distribute_ssh.model.names import check_name
from distribute_ssh.node.probe import Facts
from distribute_ssh.node.process import Listing, Room
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
    names = None
    if may_hold and (names := await _names(room, token)):
        namespace, batch, job = names
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
    return Swept(node, token, what, f"{names[0]}/{names[1]}" if names else None)


async def clear_unknown(room: Room, there: Listing, work: Work) -> None:
    """Remove the folders of batches that nothing of ours stands for; not before all orphans were swept, which may save
    their results in one. Raises UnreachableError.
    """
    if there.sightings.keys() <= work.tokens and (unknown := work.unknown(there.batches)):
        await room.clear(unknown)


async def _names(room: Room, token: str) -> tuple[str, str, str] | None:
    """Namespace, batch and job, as its script says; None for a build, and for what never was a job of ours."""
    script = f"{shlex.quote(room.channel.root)}/{attempt_folder(token)}/run.sh"
    ended = await room.link.run(f"[ ! -e {script} ] || exec sed -n 's/^ *export DISTRIBUTE_//p' {script}")
    if not ended.ok:
        raise UnreachableError(f"{room.link.node}: {attempt_folder(token)} could not be read")
    said = {}
    for line in ended.stdout.decode(errors="replace").splitlines():
        name, _, value = line.partition("=")
        try:
            said[name] = "".join(shlex.split(value))  # the last of a name is ours: we come after the job's own
        except ValueError:
            continue
    names = tuple(said.get(each, "") for each in ("NAMESPACE", "BATCH", "JOB_NAME"))
    return None if any(map(check_name, names)) else (names[0], names[1], names[2])
