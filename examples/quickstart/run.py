"""One job: how steep does a wave get at this viscosity?  python3 run.py CORES (one is enough here)

Solves u_t + u u_x = viscosity u_xx from u = -sin(pi x) on -1..1 with u = 0 at both ends. The wave runs together at
x = 0 from both sides, and u stays odd, so 0..1 is solved. Second order: central differences, diffusion by Crank and
Nicolson, convection by Adams and Bashforth. Writes profiles.csv, slope.csv and picture.svg, and measures its own error
against the exact solution of Cole and Hopf.
"""

import csv
import json
import math

from quadrature import TABLE  # written by build.py

CELLS, STEPS = 800, 2000
SHOWN = range(0, STEPS + 1, STEPS // 10)  # the steps whose profile is kept
DRAWN = 4  # every so many nodes are a point of the picture


def solve(viscosity):
    """Profiles {step: u at every node} of the steps to be shown, and the slope -u_x at x = 0 after every step."""
    h, dt, inner = 1 / CELLS, 1 / STEPS, range(1, CELLS)
    half = viscosity * dt / (2 * h * h)
    # The matrix of the implicit half never changes, so its elimination is done once, here.
    factor = [0.0] * (CELLS + 1)
    for k in inner:
        factor[k] = half / (1 + 2 * half - half * factor[k - 1])

    u = [-math.sin(math.pi * k * h) for k in range(CELLS + 1)]
    u[CELLS] = 0.0  # which the sine is only nearly
    profiles, slopes, before = {0: u}, [math.pi], None
    for step in range(1, STEPS + 1):
        now = [0.0, *((u[k - 1] ** 2 - u[k + 1] ** 2) / (4 * h) for k in inner)]
        before, push = now, now if before is None else [1.5 * now[k] - 0.5 * before[k] for k in range(CELLS)]
        swept = [0.0] * CELLS
        for k in inner:
            known = u[k] + half * (u[k - 1] - 2 * u[k] + u[k + 1]) + dt * push[k]
            swept[k] = (known / half + swept[k - 1]) * factor[k]
        u = [0.0] * (CELLS + 1)
        for k in reversed(inner):
            u[k] = swept[k] + factor[k] * u[k + 1]
        slopes.append((u[2] - 8 * u[1]) / (6 * h))  # of the odd cubic through the first two nodes
        if step in SHOWN:
            profiles[step] = u
    return profiles, slopes


def exact(viscosity, x, t):
    """The solution of Cole and Hopf, its integrals by the quadrature that the build prepared."""
    upper = lower = 0.0
    for z, weight in TABLE:
        y = math.pi * (x - z * math.sqrt(4 * viscosity * t))
        part = weight * math.exp(-math.cos(y) / (2 * math.pi * viscosity))
        upper -= part * math.sin(y)
        lower += part
    return upper / lower


def polyline(points, colour):
    steps = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{steps}" fill="none" stroke="{colour}" stroke-width="1.8"/>'


def picture(viscosity, profiles, slopes):
    """Left the wave from early (light) to late (dark), right its slope in time; rings are the exact solution."""

    def wave(x, u):
        return 240 + 180 * x, 215 - 160 * u

    def climb(t, slope):
        return 540 + 300 * t, 375 - 320 * slope / top

    top = 1.1 * max(slopes)
    peak = max(range(STEPS + 1), key=slopes.__getitem__)
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 880 430" font-family="sans-serif" fill="#333">',
        '<rect width="880" height="430" fill="#fff"/>',
        '<path d="M60 55V375H420V55ZM60 215H420M240 55V375M540 55V375H840V55Z" fill="none" stroke="#ccc"/>',
        f'<text x="240" y="35" text-anchor="middle">u(x) at t = 0, 0.1 ... 1, viscosity {viscosity}</text>',
        f'<text x="690" y="35" text-anchor="middle">steepest: {max(slopes):.1f} at t = {peak / STEPS:.2f}</text>',
        '<text x="60" y="395">-1</text><text x="420" y="395" text-anchor="end">1</text>',
        '<text x="240" y="395" text-anchor="middle">x</text>',
        '<text x="50" y="65" text-anchor="end">1</text><text x="50" y="378" text-anchor="end">-1</text>',
        '<text x="540" y="395">0</text><text x="840" y="395" text-anchor="end">1</text>',
        '<text x="690" y="395" text-anchor="middle">t</text>',
        f'<text x="530" y="65" text-anchor="end">{top:.0f}</text><text x="530" y="378" text-anchor="end">0</text>',
    ]
    for step, u in profiles.items():
        late = step / STEPS
        red, green, blue = (round(early + (dark - early) * late) for early, dark in ((158, 8), (202, 48), (225, 107)))
        both = [*((-k, -u[k]) for k in range(CELLS, 0, -DRAWN)), *((k, u[k]) for k in range(0, CELLS + 1, DRAWN))]
        parts.append(polyline([wave(k / CELLS, value) for k, value in both], f"rgb({red},{green},{blue})"))
    for k in range(-19, 20, 2):
        x, y = wave(k / 20, exact(viscosity, k / 20, 1.0))
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="none" stroke="#d94801"/>')
    parts.append(polyline([climb(k / STEPS, slopes[k]) for k in range(0, STEPS + 1, 2 * DRAWN)], "#08306b"))
    return "\n".join([*parts, "</svg>"]) + "\n"


def save(name, header, rows):
    with open(f"distribute_save/{name}", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


def main():
    with open("input/sweep.json") as file:
        viscosity = json.load(file)["viscosity"]
    profiles, slopes = solve(viscosity)
    error = max(
        abs(u[k] - exact(viscosity, k / CELLS, step / STEPS))
        for step, u in profiles.items()
        if step > 0
        for k in range(0, CELLS, 2)
    )

    header = ["x", *(f"u(t={step / STEPS:g})" for step in profiles)]
    save("profiles.csv", header, ([k / CELLS, *(u[k] for u in profiles.values())] for k in range(CELLS + 1)))
    save("slope.csv", ["t", "slope"], ([k / STEPS, slope] for k, slope in enumerate(slopes)))
    with open("distribute_save/picture.svg", "w") as file:
        file.write(picture(viscosity, profiles, slopes))

    peak = max(range(STEPS + 1), key=slopes.__getitem__)
    print(f"viscosity {viscosity}: steepest slope {slopes[peak]:.2f} at t = {peak / STEPS:.3f}")
    print(f"largest error against the exact solution: {error:.1e}")


if __name__ == "__main__":
    main()
