"""What an attempt is told of the part of the node that it was given."""

from __future__ import annotations

from dataclasses import replace

import pytest

from distribute_ssh.model.resources import Share
from distribute_ssh.node.given import Given, environment, given
from distribute_ssh.node.probe import Gpu, Offer

A, B = (Gpu(n, "nvidia", "NVIDIA RTX A5000", 24576, f"GPU-0000000{n}-0000-0000-0000-000000000000") for n in (0, 1))
X, Y = (Gpu(n, "amd", "Instinct MI210", 65536, f"GPU-{n}f00000000000000") for n in (0, 1))
OFFER = Offer(16, 65536, (A, B), ("gpu", "python3"), slots=1)


def told(gpus: tuple[Gpu, ...]) -> dict[str, str]:
    return environment(Given(1, gpus=gpus, hides=True))


def test_a_share_is_given_as_it_was_decided() -> None:
    part = given(Share(4, 8192, (1,)), OFFER, found=2, has_gpu=False)
    assert part == Given(4, 8192, (B,), hides=True)
    assert environment(part) == {
        "DISTRIBUTE_MEMORY_MB": "8192",
        "DISTRIBUTE_GPUS": "1",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": B.uuid,
        "NVIDIA_VISIBLE_DEVICES": B.uuid,
        "ROCR_VISIBLE_DEVICES": "",
    }


def test_a_job_that_asks_for_resources_and_no_gpu_sees_none() -> None:
    env = environment(given(Share(2), OFFER, found=2, has_gpu=True))
    assert (env["DISTRIBUTE_GPUS"], env["CUDA_VISIBLE_DEVICES"], env["ROCR_VISIBLE_DEVICES"]) == ("0", "", "")
    assert "DISTRIBUTE_MEMORY_MB" not in env, "it did not say how much, so it was promised none"


def test_a_job_without_resources_has_its_slots_part_of_the_machine() -> None:
    assert given(None, OFFER, found=2, has_gpu=False) == Given(16, 65536)
    assert given(None, replace(OFFER, slots=3), found=2, has_gpu=False) == Given(5, 21845)
    assert given(None, replace(OFFER, slots=99, memory_mb=None), found=2, has_gpu=False) == Given(1, None)
    assert environment(Given(16)) == {}, "and whatever GPUs there are, as ever"


def test_a_job_of_a_batch_with_gpu_gets_them_all_and_the_drivers_are_told_nothing() -> None:
    part = given(None, OFFER, found=2, has_gpu=True)
    assert part == Given(16, 65536, (A, B))
    assert environment(part) == {"DISTRIBUTE_MEMORY_MB": "65536", "DISTRIBUTE_GPUS": "2"}


def test_it_gets_those_that_nobody_else_uses_or_all_where_somebody_uses_each() -> None:
    one = given(None, OFFER, found=2, has_gpu=True, foreign={0})
    assert (one.gpus, environment(one)["CUDA_VISIBLE_DEVICES"]) == ((B,), B.uuid)
    assert given(None, OFFER, found=2, has_gpu=True, foreign={0, 1}) == Given(16, 65536, (A, B))


def test_a_gpu_that_the_inventory_leaves_out_is_hidden() -> None:
    part = given(None, replace(OFFER, gpus=(B,)), found=2, has_gpu=True)
    assert environment(part)["CUDA_VISIBLE_DEVICES"] == B.uuid


def test_amd_gpus_are_named_to_rocr_and_counted_to_hip() -> None:
    env = told((X, Y))
    assert env["ROCR_VISIBLE_DEVICES"] == "GPU-0f00000000000000,GPU-1f00000000000000"
    assert env["HIP_VISIBLE_DEVICES"] == "0,1"
    assert env["CUDA_VISIBLE_DEVICES"] == ""
    assert told((Y,))["HIP_VISIBLE_DEVICES"] == "0", "HIP counts what ROCr left it"
    assert "HIP_VISIBLE_DEVICES" not in told((A,))


@pytest.mark.parametrize(
    ("gpus", "cuda", "rocr"),
    [
        ((Gpu(3),), "3", "3"),
        ((A, Gpu(3)), "0,3", "3"),
        ((A, X), A.uuid, X.uuid),
        ((replace(A, uuid=None), B), "0,1", ""),
    ],
)
def test_a_gpu_without_a_uuid_is_named_by_its_number(gpus: tuple[Gpu, ...], cuda: str, rocr: str) -> None:
    env = told(gpus)
    assert (env["CUDA_VISIBLE_DEVICES"], env["ROCR_VISIBLE_DEVICES"]) == (cuda, rocr)
