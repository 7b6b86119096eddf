"""A line to a head that is lost: who follows a batch there comes back, for a while."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from distribute_ssh.api.away import Away
from distribute_ssh.errors import NoNodeError, UnreachableError
from distribute_ssh.head import client
from distribute_ssh.model.settings import Head, Places


@pytest.fixture
def away(monkeypatch: pytest.MonkeyPatch) -> Away:
    monkeypatch.setattr(client, "COME_BACK", (0.0, 0.0))
    return Away(Head.parse("ana@head"), Places.of({}, Path("/home/ana")))


def answers(monkeypatch: pytest.MonkeyPatch, *told: Exception | None) -> list[Exception | None]:
    """What the head does each time it is asked; what is left of it."""
    left = list(told)

    async def asked(self: Away, *arguments: str, **more: Any) -> dict[str, Any]:
        assert arguments == ("follow", "--", "ana/sweep")
        if (error := left.pop(0)) is not None:
            raise error
        return {"schema": 1}

    monkeypatch.setattr(Away, "_asked", asked)
    return left


async def test_a_lost_line_is_tried_again(away: Away, monkeypatch: pytest.MonkeyPatch) -> None:
    left = answers(monkeypatch, UnreachableError("gone"), UnreachableError("gone"), None)
    await away.follow("ana/sweep", lambda: None)
    assert left == []


async def test_a_head_that_stays_away_is_told_in_the_end(away: Away, monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, *[UnreachableError("gone")] * 3)
    with pytest.raises(UnreachableError, match="gone"):
        await away.follow("ana/sweep", lambda: None)


async def test_what_the_head_says_is_not_asked_again(away: Away, monkeypatch: pytest.MonkeyPatch) -> None:
    left = answers(monkeypatch, NoNodeError("nowhere"), None)
    with pytest.raises(NoNodeError):
        await away.follow("ana/sweep", lambda: None)
    assert left == [None]
