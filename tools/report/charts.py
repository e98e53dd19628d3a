"""Turn curves and sweeps into charts that plotly.js draws: plain data, no colours of the page's own."""

from collections.abc import Sequence
from typing import Any

from tools.report.gather import ChainFiles, Curve
from tools.report.verdict import HEADLINE

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7f7f7f")
"""Okabe and Ito's palette without black and yellow: told apart by colour-blind readers, on white and on black."""
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
"""Told apart in grey."""


def build_charts(curves: Sequence[Curve]) -> list[dict[str, Any]]:
    """Return one chart per quantity: {"title", "traces", "layout"}; the same name keeps its colour in all of them."""
    names = list(dict.fromkeys(_family(curve.name) for curve in curves))
    charts: dict[str, dict[str, Any]] = {}
    for curve in curves:
        chart = charts.setdefault(curve.chart, _start_chart(curve.chart, curve.x_title))
        style = names.index(_family(curve.name))
        chart["traces"].append(
            {
                "type": "scatter",
                "mode": "lines" if len(curve.x) > 8 else "lines+markers",
                "name": curve.name,
                "x": list(curve.x),
                "y": [round(float(value), 5) for value in curve.y],
                "line": {"color": COLOURS[style % len(COLOURS)], "dash": DASHES[style % len(DASHES)], "width": 2},
            }
        )
    return list(charts.values())


def build_heat_maps(files: ChainFiles) -> list[dict[str, Any]]:
    """Return a heat map per protocol and headline metric of a sweep over two axes; none without a sweep.

    A stage of a sweep carries its place in the grid as spec["grid"], e.g. {"mixing.n": 256, "mixing.s": 512}.
    """
    points: dict[tuple[str, str, str, str], dict[tuple[str, str], list[float]]] = {}
    for stage in files.stages:
        grid = stage.spec.get("grid") or {}
        if stage.result is None or len(grid) < 2:
            continue
        (x_name, x), (y_name, y) = list(grid.items())[:2]
        for metric in HEADLINE:
            value = stage.result.metrics.get(metric)
            if value is not None:
                place = points.setdefault((stage.result.protocol, metric, x_name, y_name), {})
                place.setdefault((str(x), str(y)), []).append(value)
    return [_build_heat_map(key, values) for key, values in points.items()]


def _build_heat_map(key: tuple[str, str, str, str], values: dict[tuple[str, str], list[float]]) -> dict[str, Any]:
    protocol, metric, x_name, y_name = key
    xs, ys = list(dict.fromkeys(x for x, _ in values)), list(dict.fromkeys(y for _, y in values))
    means = [[_mean(values.get((x, y), [])) for x in xs] for y in ys]
    chart = _start_chart(f"{metric} over {x_name} and {y_name}, {protocol}", x_name)
    chart["layout"]["yaxis"]["title"] = {"text": y_name}
    for axis in ("xaxis", "yaxis"):
        chart["layout"][axis]["type"] = "category"
    trace = {"type": "heatmap", "x": xs, "y": ys, "z": means, "colorscale": "Viridis", "texttemplate": "%{z:.1f}"}
    return chart | {"traces": [trace]}


def _start_chart(title: str, x_title: str) -> dict[str, Any]:
    layout = {"xaxis": {"title": {"text": x_title}}, "yaxis": {"title": {"text": ""}, "rangemode": "normal"}}
    return {"title": title, "traces": [], "layout": layout}


def _family(name: str) -> str:
    return name.partition(" (seed")[0]


def _mean(values: Sequence[float]) -> float | None:
    return round(sum(values) / len(values), 3) if values else None
