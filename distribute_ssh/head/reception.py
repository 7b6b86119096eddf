"""The gateway takes a batch in: its jobs file, and of its files what the head lacks; then all of it or nothing."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING

from distribute_ssh import submitting
from distribute_ssh.coordination.snapshot import snapshot
from distribute_ssh.errors import DeniedError, LimitError
from distribute_ssh.head import frames, offer
from distribute_ssh.head.frames import Body, Frame, FrameError
from distribute_ssh.model.actor import Role
from distribute_ssh.store.incoming import Incoming, Upload
from distribute_ssh.store.spool import Spool, assemble, references

if TYPE_CHECKING:
    from distribute_ssh.head.gateway import Site, Wire
    from distribute_ssh.head.offer import Offer
    from distribute_ssh.model.inventory import Limits

UNLIMITED = 1 << 62


class Reception:
    """One conversation in which files come, and perhaps a batch."""

    def __init__(self, wire: Wire, site: Site) -> None:
        self.wire = wire
        self.site = site
        self.limits: Limits | None = site.inventory().limits if site.actor.role is not Role.OWNER else None
        self.spool = Spool(site.places.spool)
        self.incoming = Incoming(
            site.places.spool,
            site.actor.user or "owner",
            most_bytes=self.limits.spool if self.limits else UNLIMITED,
            most_files=2 * self.limits.files if self.limits else UNLIMITED,
        )
        self.offer: Offer | None = None

    def run(self) -> None:
        """Take what comes until the laptop has enough."""
        while True:
            frame = self.wire.read()
            if frame.kind == "offer":
                self.offer = self._heard(frame)
                self._answer_lacking(self._lacking())
            elif frame.kind == "put":
                self._put(frame)
            elif frame.kind == "sync":
                self.wire.write(frames.encode("done"))
            elif frame.kind == "accept" and self.offer is not None:
                if lacking := self._lacking():  # what was here may have gone while the rest came
                    self._answer_lacking(lacking)
                else:
                    self._accept(self.offer)
                    return
            else:
                raise FrameError(f"{frame.kind[:40]!r} is not expected now")

    def _heard(self, said: Frame) -> Offer:
        source = self._body("source", offer.MAX_SOURCE)
        listed = self._body("files", offer.MAX_LIST)
        found = offer.heard(said, source, listed, self.limits.files if self.limits else UNLIMITED)
        # Before gigabytes are sent for nothing.
        batch = self.site.queue().batch(found.spec.name)
        if batch is not None and (why := self.site.actor.why_not_change(batch.submitter)):
            raise DeniedError(why)
        nodes = snapshot(self.site.queue(), self.site.inventory(), time.time()).nodes
        submitting.require_node(found.spec, nodes)
        self._check_room(found)
        return found

    def _body(self, kind: str, limit: int) -> bytes:
        body = Body(kind, limit)
        while (whole := body.add(self.wire.read())) is None:
            pass
        return whole

    def _check_room(self, found: Offer) -> None:
        if self.limits is None:
            return
        kept = self.site.queue().needed_of(self.site.who) | found.sizes
        if (size := sum(kept.values())) > self.limits.spool:
            raise LimitError(
                f"the files of {self.site.who}'s batches would take {size:,} bytes on the head, and "
                f"{self.limits.spool:,} may",
                hint="files of batches that are done count no more: submit it then, or ask the administrator",
            )

    def _lacking(self) -> dict[str, tuple[int, int]]:
        """What is still to be sent: its size, and where to go on, by hash."""
        assert self.offer is not None
        cut = self.incoming.cut()
        found = {}
        for sha256, size in self.offer.sizes.items():
            whole = self.spool.path_of(sha256) if self.spool.has(sha256) else self.incoming.whole(sha256)
            if whole is None:
                begun, here = cut.get(sha256, (size, 0))
                found[sha256] = (size, min(here, size) if begun == size else 0)
            # A false size would be no limit to who says it, and no room on a node to everybody.
            elif whole.stat().st_size != size:
                raise FrameError(f"a file is said to have {size:,} bytes, which is not the size of that content")
        return found

    def _answer_lacking(self, lacking: dict[str, tuple[int, int]]) -> None:
        rows = [[sha256, at] for sha256, (_, at) in lacking.items()]
        body = offer.dumped(rows)
        for piece in frames.pieces("lacking", body):
            self.wire.write(piece)

    def _put(self, frame: Frame) -> None:
        sha256, size, offset = frame.text("sha256", 64), frame.number("size"), frame.number("offset")
        try:
            upload = self.incoming.begin(sha256, size, offset)
        except ValueError as error:
            raise FrameError(str(error)) from None
        try:
            self._fill(upload, frame)
            upload.finish()
        finally:
            upload.close()

    def _fill(self, upload: Upload, frame: Frame) -> None:
        while True:
            if frame.data:
                upload.write(frame.data)
            if upload.is_complete:
                return
            frame = self.wire.read()
            if frame.kind != "more" or not frame.data:
                raise FrameError("a file ended before it was whole")

    def _accept(self, found: Offer) -> None:
        with self.incoming.alone():
            self._check_room(found)
            with self.spool.together():
                for sha256 in found.sizes:
                    if (path := self.incoming.whole(sha256)) is not None:
                        self.spool.adopt(path, sha256)
                staged = assemble(found.spec, self.spool, found.inputs(references(found.spec)))
            submitted = submitting.enter(
                self.site.queue(), found.spec, staged,
                who=self.site.who, now=time.time(), fresh=found.fresh, replace=found.replace,
                most_waiting=self.limits.jobs if self.limits else None,
            )  # fmt: skip
            self.incoming.forget(set(found.sizes))
        self.wire.write(frames.encode("accepted", submitted=asdict(submitted), driven=self.site.is_driven()))
