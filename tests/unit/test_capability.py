"""What a node has and a job needs."""

from __future__ import annotations

import pytest

from distribute_ssh.model import capability


def test_a_node_matches_when_it_has_all_that_is_needed_and_the_rest_does_not_matter() -> None:
    assert not capability.missing(["gcc", "gpu"], ["gpu", "gcc", "mpi"])
    assert not capability.missing([], [])
    assert capability.missing(["gcc", "gpu"], ["gcc"])


def test_names_are_compared_exactly() -> None:
    assert capability.missing(["GPU"], ["gpu"])
    assert capability.missing(["python3"], ["python3.11"])


def test_what_is_missing_is_named_once_and_in_order() -> None:
    assert capability.missing(["openfoam", "gpu", "gpu", "gcc"], ["gcc"]) == ("gpu", "openfoam")


def test_a_kind_needs_its_interpreter_unasked() -> None:
    assert capability.needed("python") == ("python3",)
    assert capability.needed("apptainer", ["gpu", "apptainer", "gpu"]) == ("apptainer", "gpu")


@pytest.mark.parametrize("name", ["apptainer", "singularity"])
def test_apptainer_and_singularity_stand_for_each_other_on_a_node(name: str) -> None:
    assert capability.offered([name, "gcc"]) == ("apptainer", "gcc", "singularity")
    assert capability.offered(["gcc"]) == ("gcc",)


@pytest.mark.parametrize("name", ["gpu", "python3.11", "lab/desk", "A100-80G", "größe"])
def test_any_word_is_a_capability(name: str) -> None:
    assert capability.check(name) is None


@pytest.mark.parametrize("name", ["", "two words", "tab\t", "line\n", "\x1b[31m", "\u200b", "x" * 101, "ü" * 51])
def test_what_is_not_one_printable_word_is_refused(name: str) -> None:
    assert capability.check(name) is not None
