"""Draw metrics over a budget: a panel for each metric, a line for each arm, bars for intervals."""

import html
import math
from collections.abc import Mapping, Sequence

from mezzotint.evaluation.results import Interval
from mezzotint.report.plots import ticks

_COLORS = ("#a5361a", "#2f6f9f", "#4b8b3b", "#b87a0c")
_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM = 360, 250, 40, 26, 36
_INK, _RULE = "#655c50", "#dcd2c1"

Lines = Mapping[str, Sequence[tuple[int, Interval]]]


def as_svg(panels: Mapping[str, Lines], below: str) -> str:
    """Draw a row of panels over a logarithmic budget.

    Args:
        panels: by title, then by arm: budgets with the metric at each.
        below: what the budget is.
    """
    width, height = _WIDTH * len(panels), _HEIGHT + 18
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" '
        f'font-size="11"><rect width="{width}" height="{height}" fill="#fdfaf3"/>'
    ]
    for number, (title, lines) in enumerate(panels.items()):
        parts += [f'<g transform="translate({_WIDTH * number} 0)">', *_panel(title, lines), "</g>"]
    names = next(iter(panels.values()))
    for index, name in enumerate(names):
        color, x = _COLORS[index % len(_COLORS)], _LEFT + 140 * index
        parts.append(f'<text x="{x}" y="{height - 8}" fill="{color}">● {html.escape(name)}</text>')
    parts.append(
        f'<text x="{width - 10}" y="{height - 8}" text-anchor="end" '
        f'fill="{_INK}">{html.escape(below)}</text>'
    )
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(title: str, lines: Lines) -> list[str]:
    found = [point for line in lines.values() for point in line]
    levels = ticks(min(one.low for _, one in found), max(one.high for _, one in found))
    budgets = sorted({budget for budget, _ in found})
    span = math.log(budgets[-1] / budgets[0]) or 1.0

    def x(budget: int, index: int) -> float:
        inner = _WIDTH - _LEFT - 60
        return round(_LEFT + 25 + math.log(budget / budgets[0]) / span * inner + 4 * index, 1)

    def y(value: float) -> float:
        share = (value - levels[0]) / (levels[-1] - levels[0])
        return round(_HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM), 1)

    parts = [f'<text x="{_LEFT}" y="16" fill="#211d18">{html.escape(title)}</text>']
    for level in levels:
        parts.append(f'<path d="M{_LEFT} {y(level)}H{_WIDTH - 10}" stroke="{_RULE}"/>')
        parts.append(
            f'<text x="{_LEFT - 5}" y="{y(level) + 4}" text-anchor="end" '
            f'fill="{_INK}">{level:g}</text>'
        )
    for budget in budgets:
        where = f'x="{x(budget, 1)}" y="{_HEIGHT - _BOTTOM + 16}"'
        parts.append(f'<text {where} text-anchor="middle" fill="{_INK}">{budget:,}</text>')
    for index, (name, line) in enumerate(lines.items()):
        color = _COLORS[index % len(_COLORS)]
        points = " ".join(f"{x(budget, index)},{y(one.mean)}" for budget, one in line)
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="1.6"/>'
        )
        for budget, one in line:
            at, words = x(budget, index), f"{name}: {one.mean:.3f} ({one.low:.3f} – {one.high:.3f})"
            parts.append(
                f'<path d="M{at} {y(one.low)}V{y(one.high)}" stroke="{color}" '
                'stroke-opacity="0.5"/>'
            )
            dot = f'<circle cx="{at}" cy="{y(one.mean)}" r="3" fill="{color}">'
            parts.append(f"{dot}<title>{html.escape(words)}</title></circle>")
    return parts
