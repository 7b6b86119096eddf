"""One job: becomes the solver, with this job's parameters and as many threads as the job was given cores."""

import json
import os
import shutil
import sys

with open("input/sweep.json") as file:
    case = json.load(file)

shutil.copy("input/sweep.json", "distribute_save/case.json")  # so that a result says by itself what it is
# A machine may be somebody's desk: threads that wait shall sleep, not spin.
os.environ["OMP_WAIT_POLICY"] = "passive"
# In place of this process, so that exit code, signals and output are the solver's own.
os.execv("./cavity", ["cavity", str(case["reynolds"]), str(case["cells"]), sys.argv[1], "distribute_save"])
