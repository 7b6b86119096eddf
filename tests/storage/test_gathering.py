"""What shall lie in storage, and what has to be done for it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from distribute_ssh.storage.gathering import Difference, Parcel, arrange, difference
from distribute_ssh.storage.listing import Item, Saved

PARCEL = Parcel("tests0-job", "ns", "batch", "job", "job_output.txt", {})
FILE, OTHER, FOLDER, LINK = Item("f", 3, 1, 0o644), Item("f", 3, 2, 0o644), Item("d"), Item("l", target=b"x")


def test_files_keep_their_places_and_the_output_gets_its_name() -> None:
    saved = Saved(True, FILE, tree={b"d": FOLDER, b"d/x": FILE, b"output": OTHER})
    wanted, skipped = arrange(PARCEL, saved)
    assert {path: entry.source for path, entry in wanted.items()} == {
        b"job_output.txt": b"tests0-job/output",
        b"d": b"tests0-job/save/d",
        b"d/x": b"tests0-job/save/d/x",
        b"output": b"tests0-job/save/output",
    }
    assert skipped == {}


def test_no_two_things_ever_get_one_place() -> None:
    names = [b"job.json", b"job.json.saved", b"job_output.txt", b"job_output.txt.saved.saved", b"job_output.txt.saved"]
    saved = Saved(True, FILE, tree=dict.fromkeys(names, FILE), skipped={b"job.json.saved.saved": "a pipe"})
    wanted, skipped = arrange(PARCEL, saved)
    assert len(wanted) == 1 + len(names)
    assert b"job.json" not in wanted
    assert not wanted.keys() & skipped.keys()


def test_nothing_to_do_where_all_is_there() -> None:
    tree = {b"d": FOLDER, b"d/x": FILE, b"l": LINK}
    assert not difference(tree, tree)


def test_what_became_another_kind_is_removed_first_children_before_parents() -> None:
    wanted = {b"a": FILE, b"b": FOLDER, b"b/x": FILE}
    have = {b"a": FOLDER, b"a/x": FILE, b"a/y": LINK, b"b": LINK}
    assert difference(wanted, have) == Difference(
        remove=[b"a/x", b"a/y", b"a", b"b"], folders=[b"b"], links={}, files=[b"a", b"b/x"]
    )


def _with_folders(leaves: dict[bytes, Item]) -> dict[bytes, Item]:
    """A tree with these at its ends: what lies below another one makes that a folder."""
    parents = {path[:at] for path in leaves for at in range(len(path)) if path[at : at + 1] == b"/"}
    return dict(sorted((leaves | dict.fromkeys(parents, FOLDER)).items()))


TREES = st.dictionaries(
    st.sampled_from([b"a", b"b", b"c", b"a/x", b"a/y", b"b/x", b"a/x/1"]), st.sampled_from([FILE, OTHER, LINK])
).map(_with_folders)


@given(TREES, TREES)
def test_doing_the_difference_makes_one_tree_the_other(wanted: dict[bytes, Item], have: dict[bytes, Item]) -> None:
    there = dict(have)
    todo = difference(wanted, have)
    for path in todo.remove:
        assert not any(other.startswith(path + b"/") for other in there)
        del there[path]
    for path in (*todo.folders, *todo.links, *todo.files):
        parent, slash, _ = path.rpartition(b"/")
        assert path not in there
        assert not slash or there[parent].kind == "d"
        there[path] = wanted[path]
    assert there == wanted
