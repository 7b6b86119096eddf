"""The page about Python is true: its examples run one after the other, and it names everything there is."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import distribute_ssh as d
from tests.support.drawing import DOCS

PAGE = (DOCS / "python.md").read_text(encoding="utf-8")
RUN = 'open("distribute_save/forces.csv", "w").write("drag,lift\\n1,2\\n")\n'


def test_every_example_runs_as_it_stands(home: Path) -> None:
    (home / "run.py").write_text(RUN)
    for name in ("common.dat", "restart_v3.dat", "solver.sif"):
        (home / name).touch()
    examples = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert len(examples) == 7
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for example in examples:
        exec(compile(example, "docs/python.md", "exec"), namespace)
    assert namespace["outcome"].is_done
    assert set(namespace["results"]) == {"re_100", "re_400", "re_1000"}
    assert {path.name for path in namespace["pulled"].files} > {"forces.csv", "job.json"}
    assert namespace["future"].result() == namespace["volume"](4)
    assert d.read("distribute-jobs.yaml").kind == "apptainer"


def test_the_page_names_every_function_method_and_option() -> None:
    functions = [name for name in d.__all__ if inspect.isfunction(getattr(d, name))]
    assert all(f"`{name}(" in PAGE for name in functions if not name.startswith(("write", "read"))), functions
    methods = [name for name in vars(d.Handle) if not name.startswith("_") and callable(getattr(d.Handle, name))]
    assert all(f"`handle.{name}(" in PAGE or f"`{name}(" in PAGE for name in methods)
    from distribute_ssh.api.batch import BatchOptions

    assert all(f"`{name}`" in PAGE for name in BatchOptions.__annotations__)
