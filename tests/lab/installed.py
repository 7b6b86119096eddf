"""`distribute` on a machine of a lab, as an administrator would have installed it: in a virtual environment."""

from __future__ import annotations

import shutil
import sys
import sysconfig
from pathlib import Path

from tests.lab.machine import Machine

CHECKOUT = Path(__file__).parents[2]
PROGRAM = "/opt/distribute/bin/distribute"
NOT_NEEDED = (
    "*mypy*",
    "ruff*",
    "pip*",
    "setuptools*",
    "hypothesis*",
    "apprise*",
    "*pytest*",
    "__editable__*",
    "__pycache__",
)
_SCRIPT = """\
set -eu
cd /opt
mkdir -p distribute/bin distribute/lib/python{version}/site-packages
ln -sf {python} distribute/bin/python
printf 'home = %s\\ninclude-system-site-packages = false\\n' {home} > distribute/pyvenv.cfg
printf '#!/bin/sh\\nexec /opt/distribute/bin/python -I -m distribute_ssh "$@"\\n' > {program}
chmod 755 {program}
"""


def install(machine: Machine) -> None:
    """Put the program of this checkout, and what it needs, on a machine; `PROGRAM` runs it there for every user.

    All of it is copied: a checkout may lie in a home or in /tmp, and a machine has others of these.
    """
    python, version = _interpreter(), sysconfig.get_python_version()
    script = _SCRIPT.format(version=version, python=python, home=python.parent, program=PROGRAM)
    machine.exec(["sh", "-c", script])
    packages = machine.root / f"opt/distribute/lib/python{version}/site-packages"
    ours = Path(sysconfig.get_path("purelib"))
    shutil.copytree(ours, packages, symlinks=True, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*NOT_NEEDED))
    shutil.copytree(CHECKOUT / "distribute_ssh", packages / "distribute_ssh", dirs_exist_ok=True)


def _interpreter() -> Path:
    """A Python that is on the machines too: nobody's home is, and many a Python lies in one."""
    own = Path(sys.base_prefix, "bin", f"python{sysconfig.get_python_version()}")
    found = shutil.which(own.name, path="/usr/local/bin:/usr/bin")
    hidden = own.is_relative_to("/root") or own.is_relative_to("/home")
    assert found or not hidden, f"a lab's machines have no {own.name}: {own} is in somebody's home"
    return Path(found) if hidden and found else own
