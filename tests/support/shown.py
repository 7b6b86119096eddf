"""Batches and jobs as the queue tells of them, to be shown."""

from __future__ import annotations

from typing import Any

NOW = 1_741_100_000.0  # 2025-03-04 14:53:20 UTC, a Tuesday


def batch(**changes: Any) -> dict[str, Any]:
    return {
        "namespace": "demo",
        "batch": "sweep",
        "submitter": "ana",
        "state": "running",
        "submitted_at": "2025-03-04T13:53:20Z",
        "finished_at": None,
        "counts": {"done": 5, "running": 2, "archiving": 1, "queued": 3, "failed": 1, "lost": 1},
        "runtime": {"mean": 60.0, "stdev": 0.0},
        "nodes": ["lab1"],
        "jobs": [],
    } | changes


def job(name: str, state: str = "done", **changes: Any) -> dict[str, Any]:
    return {
        "name": name,
        "state": state,
        "node": "lab1",
        "attempt": 1,
        "exit_code": 0,
        "reason": None,
        "request": None,
        "started_at": "2025-03-04T14:00:00Z",
        "finished_at": "2025-03-04T14:01:05Z",
    } | changes
