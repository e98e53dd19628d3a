"""Draw one figure per analysis that compares all encoders and is readable in greyscale (lines, markers, hatches).

Encoders of one method (NAME and NAME@SEED) are drawn as their mean; error bars are standard deviations over seeds.
The figures use matplotlib's object interface, so they need no display and change no global state.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pretrain.runtime.storage import open_whole
from transfer.results.seeds import COUNT, SPREAD, pool_seeds

Row = Mapping[str, Any]
COLOURS = ("#000000", "#e69f00", "#0072b2", "#cc79a7", "#009e73", "#56b4e9", "#d55e00", "#7f7f7f")
"""Okabe and Ito's colour-blind safe palette, ordered so that neighbours also differ in lightness."""
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)), (0, (8, 3)), (0, (3, 1, 1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
HATCHES = ("", "///", "...", "xxx", "\\\\\\", "++", "oo", "--")
NAMES_FIT = 44
"""Maximum total length of the names below the bars of a panel; longer ones are slanted."""
NAMES_INSIDE = 5
"""Maximum number of legend entries inside the axes."""
LONG_NAMES_INSIDE = 2
"""Maximum number of legend entries inside the axes if the names include numbers."""
LEGEND_INCHES, LETTER_INCHES = 0.8, 0.075
"""Width that a legend beside the axes adds to the figure: constant, and per letter of its longest name."""
BARS_APART = 10
"""Values above the bars are rotated if there are more bars than this."""
TITLE_PAD = 24
"""Points between a title and its axes if a legend is in between."""
DPI = 150
STYLE: Any = {
    "svg.hashsalt": "analyses",
    "font.size": 10,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.3,
    "hatch.linewidth": 0.6,
}


def draw_figures(rows: Mapping[str, Sequence[Row]], folder: Path) -> list[Path]:
    """Write FOLDER/<analysis>.png and .svg for every analysis that has rows; return the paths."""
    paths = []
    for name, draw in DRAWERS.items():
        if not rows.get(name):
            continue
        with mpl.rc_context(STYLE):
            figure = draw(pool_seeds(rows[name]))
            FigureCanvasAgg(figure)
            for suffix in ("png", "svg"):
                path = folder / f"{name}.{suffix}"
                metadata = {"Date": None} if suffix == "svg" else {"Software": None}
                with open_whole(path) as stream:
                    figure.savefig(stream, format=suffix, dpi=DPI, metadata=metadata)
                paths.append(path)
    return paths


def list_encoders(rows: Sequence[Row]) -> list[str]:
    """Return the encoders' names in order of appearance."""
    return list(dict.fromkeys(str(row["encoder"]) for row in rows))


def style_of(place: int) -> dict[str, Any]:
    """Return colour, line and marker of the encoder at `place`."""
    return {
        "color": COLOURS[place % len(COLOURS)],
        "linestyle": LINES[place % len(LINES)],
        "marker": MARKERS[place % len(MARKERS)],
    }


def draw_hardness(rows: Sequence[Row]) -> Figure:
    """Draw probability against rank, both logarithmic [MoCHi, figure 2a]."""
    figure, (axes,) = _start(1)
    for place, name in enumerate(list_encoders(rows)):
        mine = [row for row in rows if row["encoder"] == name]
        x, y = [row["rank"] for row in mine], [row["probability"] for row in mine]
        axes.plot(x, y, label=name, markevery=0.1, markersize=5, linewidth=1.6, **style_of(place))
    axes.set(xscale="log", yscale="log", xlabel="negative's rank, hardest first", ylabel="mean probability (softmax)")
    axes.set_title("How the negatives share the probability")
    _add_legend(axes)
    return figure


def draw_proxy(rows: Sequence[Row]) -> Figure:
    """Draw the proxy accuracy with and without mixed negatives."""
    figure, (axes,) = _start(1)
    kinds = {"real": "real negatives", "with_mixes": "real and mixed negatives"}
    _draw_bars(axes, rows, kinds, factor=100)
    axes.set(ylabel="queries whose positive ranks first (%)")
    axes.set_title("Proxy task accuracy", pad=TITLE_PAD)
    return figure


def draw_false_negatives(rows: Sequence[Row]) -> Figure:
    """Draw the same-class share among the r hardest negatives and among the parents of mixes."""
    figure, (left, right) = _start(2)
    for place, name in enumerate(list_encoders(rows)):
        mine = [row for row in rows if row["encoder"] == name and row["kind"] == "rank"]
        x, y = [row["rank"] for row in mine], [100 * row["share_up_to_rank"] for row in mine]
        left.plot(x, y, label=name, markevery=0.1, markersize=5, linewidth=1.6, **style_of(place))
    chance = next(row["chance"] for row in rows if row["kind"] == "rank")
    left.axhline(100 * chance, color="0.4", linewidth=1, label="all negatives")
    left.set(xscale="log", xlabel="r hardest negatives", ylabel="of the query's own class (%)", ylim=(0, None))
    left.set_title("False negatives")
    _add_legend(left)
    kinds = {"pair_one": "pair, a parent", "pair_both": "pair, both", "query_mix": "query mix"}
    shares = [
        {"encoder": name, **{row["kind"]: row["share"] for row in rows if row["encoder"] == name}}
        for name in list_encoders(rows)
    ]
    _draw_bars(right, shares, kinds, factor=100)
    right.set(ylabel="mixes with such parents (%)")
    right.set_title("Mixes with parents of the query's class", pad=TITLE_PAD)
    return figure


def draw_oracle(rows: Sequence[Row]) -> Figure:
    """Draw loss and proxy accuracy with all negatives and with those of the class oracle."""
    figure, (left, right) = _start(2)
    _draw_bars(left, rows, {"loss": "all negatives", "loss_oracle": "class oracle"}, factor=1)
    left.set(ylabel="InfoNCE (nats)")
    left.set_title("Loss", pad=TITLE_PAD)
    _draw_bars(right, rows, {"accuracy": "all negatives", "accuracy_oracle": "class oracle"}, factor=100)
    right.set(ylabel="queries whose positive ranks first (%)")
    right.set_title("Proxy task accuracy", pad=TITLE_PAD)
    return figure


def draw_alignment(rows: Sequence[Row]) -> Figure:
    """Draw uniformity against alignment; lower is better for both [Wang and Isola, figure 5]."""
    figure, (axes,) = _start(1)
    for place, row in enumerate(rows):
        look = {**style_of(place), "linestyle": ""}
        label = row["encoder"] + _count_of(row)
        axes.plot([row["alignment_of_classes"]], [row["uniformity"]], label=label, markersize=10, **look)
        _draw_spread(axes, row, "alignment_of_classes", "uniformity", look["color"])
    axes.margins(0.25)
    axes.set(xlabel="alignment: mean ‖x−y‖² within a class", ylabel="uniformity: log mean exp(−2‖x−y‖²)")
    axes.set_title("Alignment and uniformity (lower is better)")
    _add_legend(axes, inside=LONG_NAMES_INSIDE)
    return figure


def draw_classes(rows: Sequence[Row]) -> Figure:
    """Draw every class's distance to the other classes against its variance; large marks are means."""
    figure, (axes,) = _start(1)
    for place, name in enumerate(list_encoders(rows)):
        look = {**style_of(place), "linestyle": ""}
        mine = [row for row in rows if row["encoder"] == name]
        classes, mean = [row for row in mine if row["kind"] != "mean"], mine[-1]
        x, y = [row["intra_variance"] for row in classes], [row["inter_distance"] for row in classes]
        axes.plot(x, y, markersize=5, alpha=0.6, fillstyle="none", **look)
        spread = mean.get("separation" + SPREAD)
        ratio = f"{mean['separation']:.2f}" + (f" ± {spread:.2f}" if spread is not None else "")
        label = f"{name}: {ratio}{_count_of(mean)}"
        axes.plot([mean["intra_variance"]], [mean["inter_distance"]], markersize=12, label=label, **look)
        _draw_spread(axes, mean, "intra_variance", "inter_distance", look["color"])
    axes.set(xlabel="intra-class variance: mean ‖x−μ‖²", ylabel="inter-class distance: mean ‖μ−μ′‖")
    axes.set_title("Classes: small marks, and their mean: large marks")
    _add_legend(axes, title="distance / spread", inside=LONG_NAMES_INSIDE)
    return figure


def _count_of(row: Row) -> str:
    return f" ({row[COUNT]} seeds)" if COUNT in row else ""


def _draw_spread(axes: Axes, row: Row, x: str, y: str, colour: str) -> None:
    """Draw the standard deviations of a pooled point as error bars."""
    if COUNT in row:
        spread_x, spread_y = [row[x + SPREAD]], [row[y + SPREAD]]
        axes.errorbar(
            [row[x]], [row[y]], xerr=spread_x, yerr=spread_y, color=colour, capsize=3, linewidth=1.2, fmt="none"
        )


def _start(panels: int) -> tuple[Figure, tuple[Axes, ...]]:
    figure = Figure(figsize=(5.6 * panels, 4.2), layout="constrained")
    return figure, tuple(figure.subplots(1, panels, squeeze=False)[0])


def _add_legend(axes: Axes, *, title: str = "", inside: int = NAMES_INSIDE) -> None:
    """Add the legend inside the axes, or to their right if it has more than `inside` names."""
    names = axes.get_legend_handles_labels()[1]
    if len(names) <= inside:
        axes.legend(title=title or None)
        return
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.set_figwidth(figure.get_figwidth() + LEGEND_INCHES + LETTER_INCHES * max(map(len, names)))
    axes.legend(title=title or None, loc="upper left", bbox_to_anchor=(1.02, 1.0), borderaxespad=0.0)


def _draw_bars(axes: Axes, rows: Sequence[Row], kinds: Mapping[str, str], *, factor: float) -> None:
    """Draw a group of bars per row, one bar per kind, with its value above it; the legend is above the axes."""
    width = 0.8 / len(kinds)
    greys = ("0.25", "0.75", "0.95", "0.5")
    for place, (key, label) in enumerate(kinds.items()):
        x = [index + (place - (len(kinds) - 1) / 2) * width for index in range(len(rows))]
        y = [factor * row[key] for row in rows]
        hatch = HATCHES[place % len(HATCHES)]
        bars = axes.bar(x, y, width, label=label, color=greys[place % 4], edgecolor="black", hatch=hatch)
        upright = 90 if len(rows) * len(kinds) > BARS_APART else 0
        axes.bar_label(bars, fmt="%.1f" if factor == 100 else "%.2f", fontsize=8, padding=2, rotation=upright)
    names = [str(row["encoder"]) for row in rows]
    slanted: Any = (
        {"rotation": 25, "ha": "right", "rotation_mode": "anchor"} if sum(map(len, names)) > NAMES_FIT else {}
    )
    axes.set_xticks(range(len(rows)), names, **slanted)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(kinds), fontsize=9, frameon=False)
    axes.margins(y=0.2)
    axes.grid(visible=False, axis="x")


DRAWERS: dict[str, Callable[[Sequence[Row]], Figure]] = {
    "hardness_histogram": draw_hardness,
    "proxy_accuracy": draw_proxy,
    "false_negatives": draw_false_negatives,
    "oracle": draw_oracle,
    "alignment_uniformity": draw_alignment,
    "class_distances": draw_classes,
}
"""The drawing function of every analysis."""
