"""Lay out the dot plots at the top of the page: one axis per protocol and headline metric.

Positions on an axis are percent of its width, so the page can draw it at any size.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tools.report.tables import Table
from tools.report.text.numbers import write_mean, write_value
from tools.report.text.protocol_names import name_metric
from tools.report.text.wording import say_units
from transfer.results.comparison import Verdict
from transfer.results.summaries import HEADLINE, Summary

MARGIN = 0.06
"""Margin at each end of an axis, as a fraction of the range of the data."""
MOST_LINES = 24
"""Methods shown on an axis without unfolding; of more, the best."""
TICKS = 5
"""Approximate number of ticks of an axis."""


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A labelled position on an axis, in percent of its width."""

    place: float
    label: str


@dataclass(frozen=True, kw_only=True)
class Line:
    """One method on an axis."""

    name: str
    role: str
    """The control that the method is: `floor`, `ceiling` or empty."""
    value: float
    """The mean, in percent."""
    dots: Sequence[float]
    """Position of every run."""
    mean: float
    """Position of the mean."""
    interval: tuple[float, float] | None
    """Start and width of the 95 % interval of the mean, clipped to the axis; None without an interval."""
    text: str
    units: str


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One headline metric of one protocol."""

    title: str
    ticks: Sequence[Mark]
    ends: Sequence[Mark]
    """The means of the floor and the ceiling, if the chain names controls."""
    lines: Sequence[Line]
    """One per method, in the order of the chain."""

    @property
    def shown(self) -> Sequence[Line]:
        """All lines if there are at most MOST_LINES; else the best ones and the controls, best first."""
        if len(self.lines) <= MOST_LINES:
            return self.lines
        ranked = self._rank()
        return [line for place, line in enumerate(ranked) if place < MOST_LINES or line.role]

    @property
    def folded(self) -> Sequence[Line]:
        """The remaining lines, best first."""
        if len(self.lines) <= MOST_LINES:
            return []
        return [line for line in self._rank()[MOST_LINES:] if not line.role]

    def _rank(self) -> list[Line]:
        return sorted(self.lines, key=lambda line: line.value, reverse=True)


def build_axes(table: Table, verdict: Verdict) -> list[Axis]:
    """Return one axis per headline metric of a protocol's table."""
    metrics = [metric for metric in table.metrics if metric in HEADLINE]
    rows = {metric: [row for row in table.summaries if row.metric == metric] for metric in metrics}
    return [_build_axis(mine, verdict) for mine in rows.values()]


def _build_axis(rows: Sequence[Summary], verdict: Verdict) -> Axis:
    low, high = _find_range(rows)

    def place(value: float) -> float:
        return round(100 * min(1.0, max(0.0, (value - low) / (high - low))), 2)

    roles = {} if verdict.control is None else {verdict.control.floor: "floor", verdict.control.ceiling: "ceiling"}
    lines = []
    for row in rows:
        ends = None if row.interval is None else (place(row.interval[0]), place(row.interval[1]))
        lines.append(
            Line(
                name=row.backbone,
                role=roles.get(row.backbone, ""),
                value=row.mean,
                dots=[place(value) for value in row.values],
                mean=place(row.mean),
                interval=None if ends is None else (ends[0], round(ends[1] - ends[0], 2)),
                text=write_mean(row.mean, row.interval),
                units=say_units(row.sample),
            )
        )
    ends_of_scale = [Mark(place=line.mean, label=line.name) for line in lines if line.role]
    return Axis(title=name_metric(rows[0].metric), ticks=_find_ticks(low, high), ends=ends_of_scale, lines=lines)


def _find_range(rows: Sequence[Summary]) -> tuple[float, float]:
    """Return the ends of the axis in percent.

    It spans every run, and the intervals up to one range of the runs beyond them.
    """
    values = [value for row in rows for value in row.values]
    low, high = min(values), max(values)
    reach = (high - low) or 1.0
    ends = [end for row in rows for end in row.interval or ()]
    low, high = (
        min([low, *(max(end, low - reach) for end in ends)]),
        max([high, *(min(end, high + reach) for end in ends)]),
    )
    margin = MARGIN * ((high - low) or 1.0)
    return low - margin, high + margin


def _find_ticks(low: float, high: float) -> list[Mark]:
    """Return ticks at multiples of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / TICKS
    power = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [
        Mark(place=round(100 * (number * step - low) / (high - low), 2), label=write_value(number * step, decimals))
        for number in range(first, last + 1)
    ]
