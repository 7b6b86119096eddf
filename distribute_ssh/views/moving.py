"""Bytes on their way, in one line."""

from __future__ import annotations

from distribute_ssh.model.units import format_duration, format_size


def moving_line(what: str, done: int, total: int | None, seconds: float, before: int = 0) -> str:
    """`312 of 2,000 files  1.2 of 8 MiB  3.1 MiB/s  4s left`, after so many seconds.

    `total` None: nobody knows. `before`: bytes that were there at the beginning, and say nothing of the speed.
    """
    rate = (done - before) / seconds if seconds > 0 else 0.0
    words = [what, format_size(done) + ("" if total is None else f" of {format_size(total)}")]
    if rate:
        words.append(f"{format_size(round(rate))}/s")
        if seconds > 1 and total is not None:
            words.append(f"{format_duration((total - done) / rate)} left")
    return "  ".join(words)
