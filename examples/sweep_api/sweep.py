"""A study from one Python program: a sweep over one parameter, its results in a table.

    python examples/sweep_api/sweep.py [--head USER@HOST]

Without a head, and without an inventory, the jobs run on this machine. It can be stopped and started again: what is
done and unchanged is not run twice.
"""

import argparse
import csv
import json
import math
from pathlib import Path

import distribute_ssh as d

HERE = Path(__file__).parent

arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
arguments.add_argument("--head", help="where the lab's queue is; else as for the command line")
arguments.add_argument("--into", type=Path, default=Path("results"), help="where results and table go")
given = arguments.parse_args()

batch = d.python_batch("examples", "van-der-pol", build="build.py", folder=HERE)
batch.job("damping-{damping}", "period.py", sweep={"damping": [0.1, 0.5, 1, 2, 4, 8]}, time_limit="10m")

handle = d.submit(batch, head=given.head)
for job in handle.as_completed():
    print(f"{job.name} is {job.state}" + (f" on {job.node}" if job.is_done else f": {job.reason}"))

outcome = handle.wait()
found = handle.pull(given.into, include=[r"period\.json$"])
rows = []
for name, folder in found.items():
    damping, saved = outcome[name].sweep["damping"], json.loads((folder / "period.json").read_text())
    # For small damping a series in its square, for large damping 3 - 2 log 2 times the damping (Van der Pol, 1926).
    limit = 2 * math.pi * (1 + damping**2 / 16) if damping < 1 else (3 - 2 * math.log(2)) * damping
    rows.append((damping, saved["period"], limit, saved["amplitude"]))

table = given.into / "periods.csv"
with table.open("w", newline="") as file:
    written = csv.writer(file)
    written.writerow(("damping", "period", "limit", "amplitude"))
    written.writerows(sorted(rows))
for row in sorted(rows):
    print("damping {:4g}  period {:8.4f}  limit {:8.4f}  amplitude {:.4f}".format(*row))
print(f"table: {table}")
raise SystemExit(0 if outcome.is_done else 1)
