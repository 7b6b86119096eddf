"""From whom a node gets a big input: decisions alone."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from distribute_ssh.plan.spread import AGAIN, Failures, Giver, choose

NOW = 1000.0


def chosen(taker: str, *givers: Giver, busy: tuple[str, ...] = (), failures: Failures | None = None) -> str | None:
    return choose(taker, givers, busy, failures or Failures(), NOW)


def test_what_nobody_has_comes_from_the_head() -> None:
    assert chosen("a") is None


def test_who_has_all_of_it_is_asked_before_who_is_getting_it() -> None:
    assert chosen("c", Giver("a", False, 1.0), Giver("b", True, 2.0)) == "b"


def test_who_began_first_has_most_of_it_and_is_asked_first() -> None:
    assert chosen("c", Giver("b", False, 2.0), Giver("a", False, 1.0)) == "a"


def test_a_node_gives_to_one_at_a_time_so_they_stand_in_a_row() -> None:
    """However many ask at once, the head sends it once."""
    givers: list[Giver] = []
    for number in range(20):
        name = f"node{number:02d}"
        source = choose(name, givers, [giver.source for giver in givers if giver.source], Failures(), NOW)
        givers.append(Giver(name, False, float(number), source))
    assert [giver.source for giver in givers] == [None, *(f"node{number:02d}" for number in range(19))]


def test_who_is_busy_with_another_input_is_not_asked() -> None:
    assert chosen("b", Giver("a", True), busy=("a",)) is None


def test_nobody_gets_it_from_one_who_waits_for_it_from_him() -> None:
    """A node whose line broke asks again, while another still stands behind it."""
    behind = Giver("b", False, 2.0, source="a")
    assert chosen("a", behind) is None
    assert chosen("a", behind, Giver("c", False, 3.0, source="b")) is None
    assert chosen("a", Giver("a", False, 1.0)) is None


def test_a_pair_that_failed_is_let_alone_for_an_hour_and_others_are_not() -> None:
    failures = Failures()
    failures.note(NOW, giver="a", taker="b")
    assert choose("b", [Giver("a", True)], (), failures, NOW + AGAIN - 1) is None
    assert choose("b", [Giver("a", True)], (), failures, NOW + AGAIN + 1) == "a"
    assert choose("c", [Giver("a", True)], (), failures, NOW) == "a"


def test_who_lets_nobody_in_is_asked_by_nobody_and_who_gets_in_nowhere_asks_nobody() -> None:
    failures = Failures()
    failures.note(NOW, giver="shut")
    failures.note(NOW, taker="lame")
    assert chosen("b", Giver("shut", True), failures=failures) is None
    assert chosen("lame", Giver("a", True), failures=failures) is None
    assert chosen("b", Giver("shut", True), Giver("a", False), failures=failures) == "a"


NAMES = st.sampled_from("abcdef")
GIVERS = st.lists(
    st.builds(Giver, NAMES, st.booleans(), st.floats(0, 9), st.none() | NAMES), unique_by=lambda giver: giver.node
)


@given(NAMES, GIVERS, st.sets(NAMES))
def test_the_choice_has_it_is_free_and_leads_to_the_head_in_the_end(
    taker: str, givers: list[Giver], busy: set[str]
) -> None:
    found = choose(taker, givers, busy, Failures(), NOW)
    known = {giver.node: giver for giver in givers}
    if found is None:
        return
    assert found in known.keys() - busy
    at: str | None = found
    for _ in range(len(known) + 1):
        assert at != taker
        at = known[at].source if at in known else None
