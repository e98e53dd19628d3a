"""Write the page: one self-contained HTML file (Jinja2 template, plotly.js inlined for the charts)."""

import base64
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image
from plotly.offline import get_plotlyjs

from pretrain.runtime.machine import describe_machine, read_commit
from tools.report.answer import build_axes
from tools.report.charts import build_charts, build_heat_maps
from tools.report.details import list_breakdowns, list_runs
from tools.report.exports import COMPARISON_HEADS, describe_comparison
from tools.report.gather import ChainFiles
from tools.report.lineage import describe_backbones, describe_cost, describe_lineage, sum_costs
from tools.report.tables import Report, Table
from tools.report.text.escaping import clean, to_script
from tools.report.text.numbers import write_difference, write_value
from tools.report.verdict import describe_control, group_by_pair, write_headline, write_verdict
from transfer.results.comparison import Comparison, Verdict
from transfer.results.seeds import SPREAD, pool_seeds

GALLERY_IMAGES = 4
"""Images with drawn detections per protocol on the page; the others stay in the stages' folders."""
GALLERY_PX = 420
"""Longest side of such an image, in pixels."""
NUMBERS = {
    "proxy_accuracy": ("proxy task (%)", 100),
    "proxy_accuracy_mixed": ("…\u00a0with mixes (%)", 100),
    "false_negatives": ("false negatives (%)", 100),
    "hardest_share": ("hardest negative's share", 1),
    "loss": ("InfoNCE (nats)", 1),
    "loss_oracle": ("…\u00a0class oracle", 1),
    "alignment_of_classes": ("alignment", 1),
    "uniformity": ("uniformity", 1),
    "intra_variance": ("intra-class variance", 1),
    "inter_distance": ("inter-class distance", 1),
    "separation": ("distance / spread", 1),
}
"""Scalars of analysis.json shown in the page's table → (column title, factor)."""


def write_page(files: ChainFiles, report: Report) -> str:
    """Return the text of index.html: self-contained, with light and dark colours, for desktop, phone and print."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        finalize=lambda value: clean(value) if type(value) is str else value,  # our own markup is no plain str
    )
    environment.globals |= {"difference": write_difference, "points": write_value}
    charts, heat_maps = build_charts(files.curves), build_heat_maps(files)
    return environment.get_template("page.html.j2").render(
        name=files.name,
        **_describe_answer(report),
        charts=charts,
        heat_maps=heat_maps,
        charts_json=to_script([*charts, *heat_maps]),
        plotly=get_plotlyjs() if charts or heat_maps else "",
        figures=[
            (picture.title, picture.definition, inline_svg(picture.path), is_wide(picture.path))
            for picture in files.figures
        ],
        numbers=tabulate_analysis(files.analysis),
        gallery=build_gallery(files),
        backbones=describe_backbones(files.stages),
        lineage=[describe_lineage(stage) for stage in files.stages if stage.result is not None],
        costs=[describe_cost(stage) for stage in files.stages],
        sums=sum_costs(files.stages),
        commit=read_commit(),
        machine=describe_machine(),
        written=datetime.now(UTC).strftime("%d %B %Y, %H:%M UTC"),
        folder=str(files.folder),
    )


def _describe_answer(report: Report) -> dict[str, Any]:
    """Return the template values of control, verdict, axes, comparisons and tables."""
    summaries, verdict = report.summaries, report.verdict
    control = verdict.control
    passed = None if control is None else bool(control.passed)
    return {
        "control": describe_control(control),
        "control_state": {True: "passed", False: "failed", None: "none"}[passed],
        "headline": write_headline(summaries, verdict),
        "details": [*write_verdict(summaries, verdict), *report.notes],
        "tables": [_describe_table(table, verdict) for table in report.tables],
        "pairs": [_describe_pair(pair) for pair in group_by_pair(verdict)],
        "comparison_heads": COMPARISON_HEADS,
    }


def _describe_table(table: Table, verdict: Verdict) -> dict[str, Any]:
    places = range(len(table.metrics))
    return {
        "table": table,
        "axes": build_axes(table, verdict),
        "runs": list_runs(table),
        "breakdowns": list_breakdowns(table),
        "published": [place for place in places if any(row.cells[place].value is not None for row in table.published)],
        "means": [[cell.value for cell in row.cells] for row in table.rows],
    }


def _describe_pair(pair: Sequence[Comparison]) -> dict[str, Any]:
    rows = [(entry.evidence.outcome, entry.withheld, describe_comparison(entry)) for entry in pair]
    return {"first": pair[0].first, "second": pair[0].second, "rows": rows}


def tabulate_analysis(analysis: Mapping[str, Any]) -> dict[str, Any]:
    """Return {"about", "heads", "rows"} of the scalars in analysis.json; {} without analyses.

    A row is (encoder, [(mean, standard deviation or None) or None]); the pretraining seeds of a method share a row.
    """
    measured = pool_seeds([{"encoder": name, **values} for name, values in (analysis.get("numbers") or {}).items()])
    keys = [key for key in NUMBERS if any(values.get(key) is not None for values in measured)]
    if not keys:
        return {}
    rows = [(values["encoder"], [_scale(values, key) for key in keys]) for values in measured]
    about = (
        f"{analysis['images']} images; queries and keys in the {analysis['space']}; negatives: {analysis['negatives']}"
    )
    return {"about": about, "heads": [NUMBERS[key][0] for key in keys], "rows": rows}


def _scale(values: Mapping[str, Any], key: str) -> tuple[float, float | None] | None:
    factor, spread = NUMBERS[key][1], values.get(key + SPREAD)
    if values.get(key) is None:
        return None
    return factor * float(values[key]), None if spread is None else factor * float(spread)


def build_gallery(files: ChainFiles) -> list[tuple[str, dict[str, str]]]:
    """Return (title, {backbone: data URI}) for the first GALLERY_IMAGES images of each protocol."""
    chosen: dict[str, int] = {}
    gallery = []
    for title, pictures in files.detections.items():
        protocol = title.rpartition(": ")[0]
        chosen[protocol] = chosen.get(protocol, 0) + 1
        if chosen[protocol] <= GALLERY_IMAGES:
            gallery.append((title, {name: inline_picture(path) for name, path in pictures.items()}))
    return gallery


def inline_picture(path: Path) -> str:
    """Return a picture as a WebP data URI, scaled down to at most GALLERY_PX per side."""
    with Image.open(path) as image:
        picture = image.convert("RGB")
    picture.thumbnail((GALLERY_PX, GALLERY_PX))
    stream = BytesIO()
    picture.save(stream, "WEBP", quality=88)
    return "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode()


def inline_svg(path: Path) -> str:
    """Return an SVG figure as a data URI: an image cannot run scripts, and its ids do not collide with the page's."""
    return "data:image/svg+xml;base64," + base64.b64encode(path.read_bytes()).decode()


def is_wide(path: Path) -> bool:
    """Return whether an SVG figure is more than twice as wide as high, such as one with several panels."""
    box = re.search(rb'viewBox="[\d.\-]+ [\d.\-]+ ([\d.]+) ([\d.]+)"', path.read_bytes()[:4096])
    return box is not None and float(box[1]) > 2 * float(box[2])
