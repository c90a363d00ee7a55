"""The growth curves as one SVG, written by hand: a panel for each curve, a line and a label for each series.

    +---------------------+
    | title               |
    | y label       series|
    |      .----o         |
    |  o--'               |
    +---------------------+
      x label

It draws what it is given and judges nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from math import ceil, floor, log10
from typing import Final

from bench.rows import Curve, number

COLUMNS: Final = 3
WIDTH, HEIGHT = 380, 280
LEFT, RIGHT, TOP, BOTTOM = 52, 16, 74, 44
COLOURS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")
"""Told apart by colour-blind readers too (Okabe and Ito)."""

Scale = Callable[[float], float]


def svg(curves: Sequence[Curve], caption: str) -> str:
    """The whole file. `caption` says what, where and when."""
    rows = max(1, ceil(len(curves) / COLUMNS))
    width, height = COLUMNS * WIDTH, rows * HEIGHT + 30
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12" fill="#222">',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        f'<text x="16" y="20" fill="#555">{escape(caption)}</text>',
    ]
    for place, curve in enumerate(curves):
        x, y = place % COLUMNS * WIDTH, place // COLUMNS * HEIGHT + 30
        parts.append(f'<g transform="translate({x},{y})">{_panel(curve)}</g>')
    return "\n".join([*parts, "</svg>\n"])


def _panel(curve: Curve) -> str:
    points = [point for series in curve.series.values() for point in series]
    below = f'x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 6}" text-anchor="middle"'
    parts = [
        f'<text x="16" y="18" font-size="14" font-weight="600">{escape(curve.title)}</text>',
        f'<text x="16" y="34" fill="#555">{escape(curve.y_label)}</text>',
        f'<text {below} fill="#555">{escape(curve.x_label)}</text>',
    ]
    if not points:
        return "".join([*parts, f'<text x="{LEFT}" y="{TOP + 20}">nothing was measured</text>'])
    xs = sorted({x for x, _ in points})
    x_of = _scale(xs[0], xs[-1], LEFT + 8, WIDTH - RIGHT - 8, log=curve.log_x)
    ticks = _ticks([y for _, y in points], log=curve.log_y)
    y_of = _scale(ticks[0], ticks[-1], HEIGHT - BOTTOM, TOP, log=curve.log_y)
    for tick in ticks:
        y = y_of(tick)
        parts.append(
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>'
            f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end" fill="#555">{number(tick)}</text>'
        )
    parts += [
        f'<text x="{x_of(x):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle" fill="#555">{_short(x)}</text>'
        for x in xs
    ]
    label_x = 16.0
    for (name, series), colour in zip(curve.series.items(), COLOURS, strict=False):
        at = [(x_of(x), y_of(y)) for x, y in series]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in at)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for (x, y), (_, value) in zip(at, series, strict=True):
            parts.append(
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"><title>{number(value)}</title></circle>'
            )
        parts.append(
            f'<circle cx="{label_x + 4}" cy="49" r="4" fill="{colour}"/>'
            f'<text x="{label_x + 12}" y="53">{escape(name)}</text>'
        )
        label_x += 30 + 6.6 * len(name)
    return "".join(parts)


def _scale(low: float, high: float, begin: float, end: float, *, log: bool) -> Scale:
    """From values to pixels."""
    if log:
        low, high = log10(low), log10(high)
    span = (high - low) or 1.0

    def pixels(value: float) -> float:
        return begin + ((log10(value) if log else value) - low) / span * (end - begin)

    return pixels


def _ticks(values: Sequence[float], *, log: bool) -> list[float]:
    """Round values from at or below the least (0, unless logarithmic) to at or above the greatest.

    >>> _ticks([3.0, 17.0], log=False), _ticks([0.2, 30.0], log=True)
    ([0.0, 5.0, 10.0, 15.0, 20.0], [0.1, 1.0, 10.0, 100.0])
    """
    greatest = max(values)
    if log:
        least = max(min(values), 1e-6)
        ends = floor(log10(least)), ceil(log10(max(greatest, least * 1.001)))
        return [10.0**power for power in range(ends[0], max(ends[1], ends[0] + 1) + 1)]
    rough = (greatest or 1.0) / 4
    power = 10 ** floor(log10(rough))
    step = power * next(nice for nice in (1, 2, 2.5, 5, 10) if nice * power >= rough)
    return [float(step * count) for count in range(ceil(greatest / step) + 1)]


def _short(value: float) -> str:
    """`1000` as 1k, `1000000` as 1M."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"
