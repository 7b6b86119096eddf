"""Prepares what all jobs of the batch share; runs once on each machine, before the first job.

The exact solution of Burgers' equation is a quotient of two integrals over a Gaussian. The nodes and weights which
integrate those to almost all digits (Gauss-Hermite quadrature) are worked out here and written as the module
quadrature.py, which the jobs import: whatever a build leaves in this folder is there for every job.
"""

import math

NODES = 120


def hermite(n, z):
    """The Hermite functions of order n and n - 1 at z; unlike the polynomials they never overflow."""
    below, here = 0.0, math.pi**-0.25 * math.exp(-z * z / 2)
    for k in range(n):
        below, here = here, z * math.sqrt(2 / (k + 1)) * here - math.sqrt(k / (k + 1)) * below
    return here, below


def root(n, low, high):
    """The one root between `low` and `high`, by halving: sixty times 120 roots are nothing for a build."""
    sign = hermite(n, low)[0] > 0
    for _ in range(60):
        middle = (low + high) / 2
        if (hermite(n, middle)[0] > 0) == sign:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def gauss_hermite(n):
    """[(node, weight), ...] with which sum(weight * f(node)) is the integral of f(z) exp(-z * z)."""
    grid = [math.sqrt(2 * n + 2) * k / (20 * n) for k in range(20 * n + 1)]
    values = [hermite(n, z)[0] for z in grid]
    right = [root(n, *grid[k : k + 2]) for k in range(20 * n) if values[k] * values[k + 1] < 0]
    return [(z, math.exp(-z * z) / (n * hermite(n, z)[1] ** 2)) for z in sorted([-z for z in right] + right)]


table = gauss_hermite(NODES)
# A wrong table would spoil every job: the integrals of exp(-z * z) and z * z * exp(-z * z) are known.
area, spread = (sum(weight * z**power for z, weight in table) for power in (0, 2))
if len(table) != NODES or abs(area / math.sqrt(math.pi) - 1) > 1e-12 or abs(spread / area - 0.5) > 1e-12:
    raise SystemExit(f"the quadrature is wrong: {len(table)} nodes, area {area}, spread {spread}")

with open("quadrature.py", "w") as module:
    module.write('"""Written by build.py: nodes and weights of Gauss-Hermite quadrature."""\n\n')
    module.write(f"TABLE = {table!r}\n")
print(f"quadrature.py: {len(table)} nodes, area right to {abs(area / math.sqrt(math.pi) - 1):.0e}")
