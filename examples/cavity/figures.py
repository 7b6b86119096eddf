"""The drawings of compare.py, as SVG text: centre-line velocities beside the published points, and streamlines."""

from xml.sax.saxutils import escape

COLOURS = {100: "#0072b2", 400: "#d55e00", 1000: "#009e73"}
# The levels of the published figures: the primary vortex, and the far weaker eddies in the corners.
VORTEX = [-0.1175, -0.115, -0.11, -0.1, -0.09, -0.07, -0.05, -0.03, -0.01, -1e-3, -1e-4]
EDDIES = [1e-7, 1e-6, 1e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 1.5e-3]


def document(width, height, parts):
    """An SVG document of these parts on white paper."""
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="13" fill="#222">'
    )
    return "\n".join([head, '<rect width="100%" height="100%" fill="#fff"/>', *parts, "</svg>"]) + "\n"


def text(x, y, words, anchor="middle", extra=""):
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{extra}>{escape(words)}</text>'


def path(points, colour, width=1.5):
    steps = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    return f'<path d="M{steps}" fill="none" stroke="{colour}" stroke-width="{width}"/>'


class Panel:
    """A square plot with its axes; `at` turns a point of the plot into one of the paper."""

    def __init__(self, left, top, size, xs, ys):
        self.left, self.top, self.size, self.xs, self.ys = left, top, size, xs, ys

    def at(self, x, y):
        (x0, x1), (y0, y1) = self.xs, self.ys
        return self.left + (x - x0) / (x1 - x0) * self.size, self.top + (y1 - y) / (y1 - y0) * self.size

    def axes(self, x_name, y_name, step):
        """Frame, names, and a faint line with its number at every `step` of both axes."""
        (x0, x1), (y0, y1) = self.xs, self.ys
        parts = []
        for k in range(round(x0 / step), round(x1 / step) + 1):
            (x, bottom), (_, top) = self.at(k * step, y0), self.at(k * step, y1)
            parts += [path([(x, top), (x, bottom)], "#e4e4e4", 1), text(x, bottom + 18, f"{k * step:.3g}")]
        for k in range(round(y0 / step), round(y1 / step) + 1):
            (left, y), (right, _) = self.at(x0, k * step), self.at(x1, k * step)
            parts += [path([(left, y), (right, y)], "#e4e4e4", 1), text(left - 8, y + 4, f"{k * step:.3g}", "end")]
        middle, beside = self.top + self.size / 2, self.left - 46
        return [
            *parts,
            self.frame(),
            text(self.left + self.size / 2, self.top + self.size + 38, x_name),
            text(beside, middle, y_name, extra=f' transform="rotate(-90 {beside} {middle})"'),
        ]

    def frame(self):
        size = f'width="{self.size}" height="{self.size}"'
        return f'<rect x="{self.left}" y="{self.top}" {size} fill="none" stroke="#222"/>'


def centre_lines(lines, table, doubtful):
    """Both centre lines: curves computed, rings as published, crosses where the printed value is not believed.

    `lines` is {(Reynolds number, "u" or "v"): [(position, velocity), ...]}, and so is `table`.
    """
    left = Panel(70, 50, 360, (-0.4, 1.0), (0, 1))
    right = Panel(525, 50, 360, (0, 1), (-0.6, 0.4))
    parts = [
        *left.axes("u on the vertical centre line", "y", 0.2),
        *right.axes("x", "v on the horizontal centre line", 0.2),
        text(475, 26, "Curves: computed here. Rings: Ghia, Ghia and Shin (1982). Cross: a misprint there."),
    ]
    for key, reynolds in enumerate(sorted({reynolds for reynolds, _ in lines})):
        parts.append(text(870, 76 + 18 * key, f"Re = {reynolds}", "end", f' style="fill:{COLOURS[reynolds]}"'))
    for (reynolds, velocity), line in sorted(lines.items()):
        colour = COLOURS[reynolds]

        def place(position, value, velocity=velocity):
            return left.at(value, position) if velocity == "u" else right.at(position, value)

        parts.append(path([place(*point) for point in line], colour))
        for position, value in table[reynolds, velocity]:
            x, y = place(position, value)
            if (reynolds, velocity, position) in doubtful:
                parts.append(path([(x - 4, y - 4), (x + 4, y + 4), (x, y), (x - 4, y + 4), (x + 4, y - 4)], colour))
            else:
                parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="none" stroke="{colour}"/>')
    return document(910, 470, parts)


def contour(psi, nodes, level):
    """The line psi = level as short pieces, in units of a cell: each half of a cell, a triangle, holds one or none."""
    pieces = []
    above = [value >= level for value in psi]
    for j in range(nodes - 1):
        for i in range(nodes - 1):
            at = j * nodes + i
            corners = at, at + 1, at + nodes + 1, at + nodes
            if len({above[k] for k in corners}) == 1:
                continue
            for a, b, c in (corners[:3], (corners[0], *corners[2:])):
                ends = []
                for p, q in ((a, b), (b, c), (c, a)):
                    if above[p] != above[q]:
                        part = (level - psi[p]) / (psi[q] - psi[p])
                        (py, px), (qy, qx) = divmod(p, nodes), divmod(q, nodes)
                        ends.append((px + part * (qx - px), py + part * (qy - py)))
                if ends:
                    pieces.append(ends)
    return pieces


def streamlines(psi, title):
    """The lines the fluid follows: blue round the primary vortex, orange in the corner eddies, which turn back."""
    nodes = round(len(psi) ** 0.5)
    panel = Panel(60, 50, 480, (0, nodes - 1), (0, nodes - 1))
    parts = [text(300, 26, title), panel.frame()]
    for level in VORTEX + EDDIES:
        steps = []
        for start, end in contour(psi, nodes, level):
            (x0, y0), (x1, y1) = panel.at(*start), panel.at(*end)
            steps.append(f"M{x0:.1f} {y0:.1f}L{x1:.1f} {y1:.1f}")
        if steps:
            colour = "#0072b2" if level < 0 else "#d55e00"
            parts.append(f'<path d="{"".join(steps)}" fill="none" stroke="{colour}" stroke-linecap="round"/>')
    parts.append(path([(260, 42), (340, 42), (332, 38), (340, 42), (332, 46)], "#222"))
    return document(600, 560, parts)
