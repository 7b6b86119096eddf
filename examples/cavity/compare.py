"""Compares the results of this batch with the table of Ghia, Ghia and Shin (1982), and draws both.

    python3 compare.py FOLDER [--figures FOLDER]

FOLDER is the batch's own, pulled or in storage: the one with re-100, re-400 and re-1000 in it.
Exit status: 0 every judged point is within 2 % of the lid speed, 1 some is not, 2 results are missing.
"""

import argparse
import csv
import json
import sys
from pathlib import Path

import figures

LIMIT = 0.02
# Printed as -0.23827, far off the curve through its own neighbours: see README.md. Shown, but not judged.
MISPRINT = {(400, "v", 0.9063)}


def published():
    """The table as printed: {(Reynolds number, "u" or "v"): [(position, velocity), ...]}."""
    table = {}
    with open(Path(__file__).with_name("ghia.csv"), newline="") as file:
        for row in csv.DictReader(file):
            for reynolds in (100, 400, 1000):
                point = float(row["position"]), float(row[f"re_{reynolds}"])
                table.setdefault((reynolds, row["velocity"]), []).append(point)
    return table


def rows_of(path):
    """The rows of a CSV file of numbers, without the names of the columns."""
    with open(path, newline="") as file:
        rows = csv.reader(file)
        next(rows)
        return [tuple(map(float, row)) for row in rows]


def interpolate(line, x):
    """The value at `x` of the cubic through the four nearest nodes: its error is far below that of the solver."""
    width = line[1][0] - line[0][0]
    first = min(max(int(x / width) - 1, 0), len(line) - 4)
    value = 0.0
    for xi, yi in line[first : first + 4]:
        weight = 1.0
        for xj, _ in line[first : first + 4]:
            if xj != xi:
                weight *= (x - xj) / (xi - xj)
        value += weight * yi
    return value


def find_results(folder, table):
    """The jobs' folders by Reynolds number, of those numbers the table has; the finest grid where there are several."""
    found = {}
    for path in folder.glob("*/case.json"):
        case = json.loads(path.read_text())
        complete = all((path.parent / name).exists() for name in ("line_u.csv", "line_v.csv", "field.csv"))
        if (case["reynolds"], "u") in table and complete:
            found.setdefault(case["reynolds"], []).append((case["cells"], path.parent))
    return {reynolds: max(results) for reynolds, results in sorted(found.items())}


def report(results, lines, table):
    """Prints the largest and mean error of each result; returns whether all are within the limit."""
    print("Distance from the table of Ghia, Ghia and Shin (1982), in percent of the lid speed\n")
    print("   Re  cells  points   mean  largest  where")
    good, left_out = True, []
    for reynolds, (cells, _) in results.items():
        errors = []
        for velocity, axis in (("u", "y"), ("v", "x")):
            for position, printed in table[reynolds, velocity]:
                computed = interpolate(lines[reynolds, velocity], position)
                where = f"{velocity} at {axis} = {position:.4f}"
                if (reynolds, velocity, position) in MISPRINT:
                    left_out.append(f"Re {reynolds}, {where}: printed {printed:.5f}, computed {computed:.5f}")
                else:
                    errors.append((abs(computed - printed), where))
        largest, where = max(errors)
        mean = sum(error for error, _ in errors) / len(errors)
        good = good and largest < LIMIT
        verdict = "" if largest < LIMIT else f"   ABOVE {LIMIT:.0%}"
        print(f"{reynolds:5}  {cells:5}  {len(errors):6}  {mean:5.2%}    {largest:5.2%}  {where}{verdict}")
    for point in left_out:
        print(f"\nnot judged, a misprint in the table (README.md): {point}")
    return good


def draw(results, lines, table, folder):
    """Writes the figures into `folder`."""
    drawings = {"centre_lines.svg": figures.centre_lines(lines, table, MISPRINT)}
    for reynolds, (cells, result) in results.items():
        psi = [row[2] for row in rows_of(result / "field.csv")]
        drawings[f"flow_re_{reynolds}.svg"] = figures.streamlines(psi, f"Re = {reynolds}, {cells} × {cells} cells")
    folder.mkdir(parents=True, exist_ok=True)
    for name, drawing in drawings.items():
        (folder / name).write_text(drawing, encoding="utf-8")
    print(f"\ndrawn in {folder}:", *drawings)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="the batch's folder, pulled or in storage")
    parser.add_argument("--figures", type=Path, default=Path("figures"), help="where to draw (default: ./figures)")
    options = parser.parse_args()

    table = published()
    results = find_results(options.folder, table)
    if not results:
        print(f"compare.py: no results of this batch in {options.folder} (such as re-100/case.json)", file=sys.stderr)
        return 2
    lines = {
        (reynolds, velocity): rows_of(folder / f"line_{velocity}.csv")
        for reynolds, (_, folder) in results.items()
        for velocity in "uv"
    }
    good = report(results, lines, table)
    draw(results, lines, table, options.figures)
    missing = sorted({reynolds for reynolds, _ in table} - set(results))
    if missing:
        print(f"compare.py: no results for Re {', '.join(map(str, missing))}", file=sys.stderr)
        return 2
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
