# SPDX-License-Identifier: LGPL-2.1-or-later
"""Purpose. Charts as SVG text: lines, bars in parts, dots with intervals, a map of cells. Pure."""
import html
import math

WIDTH, LEFT, RIGHT, TOP, BOTTOM = 860, 70, 160, 14, 40
CHAR = 6.7 # width of a letter at the report's font size, rather more than less
GREY = "#777777"
COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56b4e9", "#555555", "#8a2be2", "#a52a2a", "#2f4f4f"]


def number(v):
    return f"{v:,.0f}" if abs(v) >= 100 else f"{v:.3g}"


def text(x, y, what, anchor="start", extra=""):
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {extra}>{html.escape(str(what))}</text>'


def line(x1, y1, x2, y2, stroke="#ccc", width=1.0, extra=""):
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{stroke}" stroke-width="{width}" {extra}/>'


def rect(x, y, w, h, fill, title=""):
    inner = f"<title>{html.escape(title)}</title>" if title else ""
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(w, 0):.1f}" height="{max(h, 0):.1f}" fill="{fill}">{inner}</rect>'


def frame(height, parts, label):
    return (f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{html.escape(label)}">' + "".join(parts) + "</svg>")


def nice_ticks(low, high, nr=5):
    span = high - low or 1.0
    step = 10 ** math.floor(math.log10(span / nr))
    step = next(step * m for m in (1, 2, 5, 10) if span / (step * m) <= nr)
    first = math.ceil(low / step)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def log_ticks(low, high):
    """Powers of ten; of few decades 2 and 5 times them too, so that an axis has more than one number."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1,) if math.log10(high / low) > 3 else (1, 2, 5)
    return [m * 10.0 ** e for e in decades for m in steps if low * (1 - 1e-9) <= m * 10.0 ** e <= high * (1 + 1e-9)]


class Scale:
    """From values to pixels, linear or logarithmic."""

    def __init__(self, low, high, at, to, is_log=False):
        self.is_log = is_log
        if is_log:
            low = max(low, 1e-9)
            high = max(high, low * 1.01)
        elif high <= low:
            high = low + 1
        self.low, self.high, self.at, self.to = low, high, at, to

    def __call__(self, v):
        if self.is_log:
            part = math.log(max(v, self.low) / self.low) / math.log(self.high / self.low)
        else:
            part = (v - self.low) / (self.high - self.low)
        return self.at + min(1.0, max(0.0, part)) * (self.to - self.at)

    def ticks(self):
        return log_ticks(self.low, self.high) if self.is_log else nice_ticks(self.low, self.high)


def axes(x, y, height, x_label, y_label, x_names=None):
    parts = []
    for v in y.ticks():
        parts += [line(LEFT, y(v), WIDTH - RIGHT, y(v), "#e4e4e4"), text(LEFT - 6, y(v) + 4, f"{v:,.10g}", "end")]
    for v, name in x_names or [(v, f"{v:,.10g}") for v in x.ticks()]:
        parts += [line(x(v), height - BOTTOM, x(v), height - BOTTOM + 4, "#888"), text(x(v), height - BOTTOM + 17, name, "middle")]
    parts.append(line(LEFT, height - BOTTOM, WIDTH - RIGHT, height - BOTTOM, "#888"))
    parts += [text((LEFT + WIDTH - RIGHT) / 2, height - 6, x_label, "middle"),
              text(14, height / 2, y_label, "middle", f'transform="rotate(-90 14 {height / 2:.0f})"')]
    return parts


def lines(series, x_label, y_label, height=280, is_log=False, x_names=None, marks=(), x_range=None):
    """series: [(name, [(x, y)...])]; marks: [(x, text)] vertical lines."""
    series = [(name, pts) for name, pts in series if pts]
    xs, ys = [p[0] for _, s in series for p in s], [p[1] for _, s in series for p in s]
    x = Scale(*(x_range or (min(xs), max(xs))), LEFT, WIDTH - RIGHT)
    y = Scale(min(v for v in ys if v > 0) * 0.8 if is_log else 0, max(ys) * 1.05, height - BOTTOM, TOP, is_log)
    parts = axes(x, y, height, x_label, y_label, x_names)
    for at, what in marks:
        parts += [line(x(at), TOP, x(at), height - BOTTOM, "#888", 1, 'stroke-dasharray="4 3"'), text(x(at) - 4 if x(at) > WIDTH / 2 else x(at) + 4, TOP + 10, what, "end" if x(at) > WIDTH / 2 else "start")]
    for i, (name, pts) in enumerate(series):
        colour = COLOURS[i % len(COLOURS)]
        path = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in pts)
        dash = ' stroke-dasharray="6 3"' if i >= len(COLOURS) else ""
        parts += [f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.6"{dash}/>',
                  line(WIDTH - RIGHT + 10, TOP + 8 + 17 * i, WIDTH - RIGHT + 28, TOP + 8 + 17 * i, colour, 3),
                  text(WIDTH - RIGHT + 33, TOP + 12 + 17 * i, name)]
    return frame(height, parts, f"{y_label} by {x_label}")


def bars(rows, unit, at_least=0.0):
    """rows: [(name, median, min, max)]: a bar to the median, a whisker from least to most. at_least: the axis goes so far."""
    left, pitch = 190, 26
    base = TOP + pitch * len(rows)
    height = base + 42
    x = Scale(0, max([r[3] for r in rows] + [at_least]) * 1.05, left, WIDTH - 90)
    parts = [p for v in x.ticks() for p in (line(x(v), TOP, x(v), base, "#e4e4e4"), text(x(v), base + 16, f"{v:,.10g}", "middle"))]
    for i, (name, mid, low, high) in enumerate(rows):
        y = TOP + pitch * i
        parts += [text(left - 8, y + 15, name, "end"),
                  rect(left, y + 4, x(mid) - left, pitch - 10, COLOURS[0] if name.startswith("k") else "#9aa5ad", f"{mid:,.4g} {unit}"),
                  line(x(low), y + 12, x(high), y + 12, "#222", 1.4), text(x(high) + 6, y + 16, number(mid))]
    return frame(height, parts + [text((left + WIDTH - 90) / 2, base + 34, unit, "middle")], unit)


def stacked(rows, unit):
    """rows: [(name, [(part, value)...])]"""
    left, pitch = 70, 44
    names = list(dict.fromkeys(part for _, ps in rows for part, _ in ps))
    height = TOP + pitch * len(rows) + 30 + 18 * ((len(names) + 3) // 4)
    x = Scale(0, max(sum(max(v, 0) for _, v in ps) for _, ps in rows) * 1.02, left, WIDTH - 60)
    base = TOP + pitch * len(rows)
    parts = [p for v in x.ticks() for p in (line(x(v), TOP, x(v), base, "#e4e4e4"), text(x(v), base + 14, f"{v:,.10g}", "middle"))]
    parts.append(text(WIDTH - 4, base + 14, unit, "end"))
    for i, (name, ps) in enumerate(rows):
        at = 0.0
        parts.append(text(left - 8, TOP + pitch * i + 23, name, "end"))
        for part, v in ps:
            v = max(v, 0)
            parts.append(rect(x(at), TOP + pitch * i + 6, x(at + v) - x(at), pitch - 14, COLOURS[names.index(part) % len(COLOURS)],
                              f"{part}: {v:.1f} {unit}"))
            at += v
        parts.append(text(x(at) + 5, TOP + pitch * i + 23, f"{at:.0f}"))
    for i, name in enumerate(names):
        px, py = left + i % 4 * 190, base + 28 + 18 * (i // 4)
        parts += [rect(px, py, 11, 11, COLOURS[i % len(COLOURS)]), text(px + 16, py + 10, name)]
    return frame(height, parts, unit)


# reached, not reached, the interval does not decide, meaningless, no goal
MARKS = {"✓": COLOURS[2], "✗": COLOURS[1], "≈": COLOURS[4], "–": GREY, "": COLOURS[0]}


def intervals(rows):
    """rows: [(name, value, low, high, mark)], on a logarithmic scale around 1, which is the goal where there is one. mark: one of MARKS."""
    left, pitch = 16 + CHAR * max(len(r[0]) for r in rows), 22
    height = TOP + pitch * len(rows) + 30
    x = Scale(min([r[2] for r in rows] + [0.5]) / 1.1, max([r[3] for r in rows] + [2.0]) * 1.1, left, WIDTH - 70, True)
    parts, free = [], left
    for v in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50):
        if x.low <= v <= x.high:
            parts.append(line(x(v), TOP, x(v), height - 26, "#444" if v == 1 else "#e4e4e4"))
            if x(v) >= free:
                parts.append(text(x(v), height - 10, f"{v:g}", "middle"))
                free = x(v) + CHAR * 5
    for i, (name, got, low, high, mark) in enumerate(rows):
        y, colour = TOP + pitch * i + 11, MARKS[mark]
        parts += [text(left - 8, y + 4, name, "end"), line(x(low), y, x(high), y, colour, 2.4),
                  f'<circle cx="{x(got):.1f}" cy="{y:.1f}" r="4.5" fill="{colour}"><title>{got:.3g}</title></circle>',
                  text(WIDTH - 4, y + 4, f"{got:.2f} {mark}", "end")]
    return frame(height, parts, "goals")


def cell_colour(part):
    """From dark blue (early) over green to yellow (late)."""
    stops = [(68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37)]
    at = min(max(part, 0.0), 1.0) * (len(stops) - 1)
    i = min(int(at), len(stops) - 2)
    return "#" + "".join(f"{round(a + (b - a) * (at - i)):02x}" for a, b in zip(stops[i], stops[i + 1]))


def cells(times, per_row=64):
    """times: for each part of the volume, in order, when it was here; None: never."""
    side, last = 11, max([t for t in times if t is not None] + [1e-9])
    rows = -(-len(times) // per_row)
    height = TOP + rows * side + 34
    parts = []
    for i, t in enumerate(times):
        fill = "#dddddd" if t is None else cell_colour(t / last)
        parts.append(rect(LEFT + i % per_row * side, TOP + i // per_row * side, side - 1, side - 1, fill, "" if t is None else f"{t:.2f} s"))
    base = TOP + rows * side + 8
    for i in range(100):
        parts.append(rect(LEFT + i * 2, base, 2, 9, cell_colour(i / 99)))
    return frame(height, parts + [text(LEFT - 6, base + 9, "0 s", "end"), text(LEFT + 206, base + 9, f"{last:.2f} s")], "order of hydration")
