"""Machines that are not this computer's like: another Debian, with a real apptainer that works for ordinary people."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.lab.lab import Lab
from tests.lab.site import LabSite
from tests.lab.trixie import trixie

DEFINITION = """\
Bootstrap: localimage
From: /tmp/root
%apprun distribute
  echo "$1 cores for $(id -u)" > /distribute_save/said
"""

# A root of one static busybox: enough for an image, and no network is needed for it.
BUILD = """\
mkdir -p /tmp/root/bin /tmp/save && cp /bin/busybox /tmp/root/bin/sh &&
for each in id cat; do ln -s sh /tmp/root/bin/$each; done &&
cat > /tmp/definition && apptainer build --ignore-subuid /tmp/image.sif /tmp/definition
"""
RUN = "apptainer run --app distribute --bind /tmp/save:/distribute_save /tmp/image.sif 4 && cat /tmp/save/said"


@pytest.mark.timeout(900)  # the first time, the root is made
def test_an_ordinary_user_builds_and_runs_an_image(lab: Callable[..., Lab]) -> None:
    machine = lab(1, root=trixie()).machines["node1"]
    home = ["env", "HOME=/home/ana", "sh", "-c"]
    machine.exec([*home, BUILD], user="ana", text=DEFINITION)
    said = machine.exec([*home, RUN], user="ana").stdout
    assert said == f"4 cores for {machine.exec(['id', '-u', 'ana']).stdout}"


@pytest.mark.timeout(900)
def test_a_batch_runs_there_and_the_probe_finds_apptainer(site: Callable[..., LabSite]) -> None:
    here = site(1, root=trixie())
    here.do("nodes", "probe")
    (node,) = here.data("nodes")["nodes"]
    assert {"apptainer", "python3"} <= set(node["capabilities"])
    here.do("run", here.batch(["job"]))
    assert here.record("job")["node_facts"]["os"].startswith("Debian GNU/Linux 13")
    here.wait(lambda: not here.remains(), "nothing is left")
