"""Convert curves and sweeps to plotly.js traces and layouts."""

import math
from collections.abc import Sequence
from typing import Any

from tools.report.curves import Curve
from tools.report.gather import ChainFiles
from tools.report.text.escaping import clean, escape_chart
from transfer.results.summaries import HEADLINE

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7f7f7f")
"""Okabe and Ito's colour-blind-safe palette, without black and yellow, which are invisible on dark and on white."""
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
SYMBOLS = ("circle", "square", "triangle-up", "diamond", "x", "cross", "star")
"""Dashes and symbols distinguish the curves in greyscale."""
FEW_POINTS = 25
"""Curves of at most this many points are drawn with markers."""


def build_charts(curves: Sequence[Curve]) -> list[dict[str, Any]]:
    """Return one chart per quantity: {"title", "traces", "layout"}.

    A method has the same colour in all charts; its seeds share one legend entry.
    """
    methods = dict.fromkeys(curve.method for curve in curves if not curve.logarithmic)
    places = {method: place for place, method in enumerate(methods)}
    charts: dict[str, dict[str, Any]] = {}
    named: set[tuple[str, str]] = set()
    for curve in curves:
        chart = charts.setdefault(curve.chart, _start_chart(curve))
        place = len(chart["traces"]) if curve.logarithmic else places[curve.method]
        first = (curve.chart, curve.method) not in named
        named.add((curve.chart, curve.method))
        name = escape_chart(curve.method if first else curve.name)  # the legend entry of all its runs
        chart["traces"].append(_draw(curve, place) | {"name": name, "showlegend": first})
    return list(charts.values())


def build_heat_maps(files: ChainFiles) -> list[dict[str, Any]]:
    """Return one heat map per protocol, headline metric and first two axes of a sweep; one axis gives one row.

    Cells are means over seeds and further axes.
    """
    points: dict[tuple[str, str, str, str], dict[tuple[str, str], list[float]]] = {}
    for stage in files.stages:
        if stage.result is None or not stage.point:
            continue
        axes = [(key, str(value)) for key, value in stage.point.items()][:2]
        (x_name, x), (y_name, y) = axes if len(axes) == 2 else (axes[0], ("", ""))
        for metric in HEADLINE:
            value = stage.result.metrics.get(metric)
            if value is not None:
                place = points.setdefault((stage.result.protocol, metric, x_name, y_name), {})
                place.setdefault((x, y), []).append(value)
    return [_build_heat_map(key, values) for key, values in points.items() if len(values) > 1]


def _draw(curve: Curve, place: int) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines+markers" if len(curve.x) <= FEW_POINTS else "lines",
        "legendgroup": clean(curve.method),
        "x": list(curve.x),
        "y": [_shorten(value) for value in curve.y],
        "line": {"color": COLOURS[place % len(COLOURS)], "dash": DASHES[place % len(DASHES)], "width": 2},
        "marker": {"symbol": SYMBOLS[place % len(SYMBOLS)], "size": 6},
    }


def _build_heat_map(key: tuple[str, str, str, str], values: dict[tuple[str, str], list[float]]) -> dict[str, Any]:
    protocol, metric, x_name, y_name = key
    xs, ys = (_in_order({point[axis] for point in values}) for axis in (0, 1))
    trace = {
        "type": "heatmap",
        "x": [escape_chart(x) for x in xs],
        "y": [escape_chart(y) for y in ys],
        "z": [[_mean(values.get((x, y), [])) for x in xs] for y in ys],
        "colorscale": "Viridis",
        "texttemplate": "%{z:.1f}",
        "colorbar": {"title": {"text": "%"}, "thickness": 12},
    }
    axes = {
        "xaxis": {"title": {"text": escape_chart(x_name)}, "type": "category"},
        "yaxis": {"title": {"text": escape_chart(y_name)}, "type": "category", "showticklabels": bool(y_name)},
    }
    over = " and ".join(name for name in (x_name, y_name) if name)
    return {"title": clean(f"{metric} over {over}, {protocol}"), "traces": [trace], "layout": axes}


def _start_chart(curve: Curve) -> dict[str, Any]:
    kind = {"type": "log", "dtick": 1} if curve.logarithmic else {}
    axes = {
        "xaxis": {"title": {"text": curve.x_title}, **kind},
        "yaxis": {"title": {"text": curve.y_title}, **({"type": "log"} if curve.logarithmic else {})},
    }
    return {"title": clean(curve.chart), "traces": [], "layout": axes}


def _in_order(names: set[str]) -> list[str]:
    """Return the values of an axis, sorted: numbers first, by value, then text."""
    return sorted(names, key=lambda name: (0, float(name), name) if _is_number(name) else (1, 0.0, name))


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _shorten(value: float) -> float:
    """Return the value rounded to five significant digits, to keep the page small."""
    return float(f"{float(value):.5g}")


def _mean(values: Sequence[float]) -> float | None:
    return round(sum(values) / len(values), 3) if values else None
