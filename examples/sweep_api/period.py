"""One job: the period of Van der Pol's oscillator, x'' = damping (1 - x x) x' - x, once it swings evenly."""

import json

STEP = 0.001
SWINGS = 12  # of which the last is measured: from x = 2 on, the first few are enough to settle


def slope(x, v, damping):
    """How fast position and speed change."""
    return v, damping * (1 - x * x) * v - x


def step(x, v, damping, dt=STEP):
    """One step of the classical Runge-Kutta method."""
    a = slope(x, v, damping)
    b = slope(x + dt / 2 * a[0], v + dt / 2 * a[1], damping)
    c = slope(x + dt / 2 * b[0], v + dt / 2 * b[1], damping)
    d = slope(x + dt * c[0], v + dt * c[1], damping)
    return (x + dt / 6 * (a[0] + 2 * b[0] + 2 * c[0] + d[0]), v + dt / 6 * (a[1] + 2 * b[1] + 2 * c[1] + d[1]))


def period(damping):
    """The time between the last two passages upwards through zero, and the largest x in between."""
    x, v, time, passages, largest = 2.0, 0.0, 0.0, [], 0.0
    while len(passages) < SWINGS:
        before = x
        x, v = step(x, v, damping)
        time += STEP
        largest = max(largest, x)
        if before < 0 <= x:
            passages.append(time - STEP * x / (x - before))
            swing, largest = largest, 0.0
    return passages[-1] - passages[-2], swing


if __name__ == "__main__":
    with open("input/sweep.json") as file:
        damping = json.load(file)["damping"]
    length, swing = period(damping)
    print(f"damping {damping}: period {length:.6f}")
    with open("distribute_save/period.json", "w") as file:
        json.dump({"period": length, "amplitude": swing}, file)
