"""Write the page: one HTML file that needs nothing else; Jinja2 for the text, plotly.js, inlined, for charts."""

import base64
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image
from plotly.offline import get_plotlyjs

from pretrain.machine import describe_machine, read_commit
from tools.report.charts import build_charts, build_heat_maps
from tools.report.gather import ChainFiles, Stage
from tools.report.tables import Table

GALLERY_IMAGES = 4
"""So many drawn images per protocol go into the page; the others stay in the stages' folders."""
GALLERY_PX = 420
"""Longest side of a picture in the page, in pixels."""


def write_page(files: ChainFiles, tables: Sequence[Table], verdict: Sequence[str]) -> str:
    """Return the text of index.html: self-contained, light and dark, made for desk, phone and print."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    charts = [*build_charts(files.curves), *build_heat_maps(files)]
    return environment.get_template("page.html.j2").render(
        name=files.name,
        verdict=verdict,
        tables=tables,
        charts=charts,
        charts_json=_for_script(charts),
        plotly=get_plotlyjs() if charts else "",
        figures=[(picture.title, inline_svg(picture.path)) for picture in files.figures],
        gallery=build_gallery(files),
        lineage=[describe_lineage(stage) for stage in files.stages if stage.result is not None],
        costs=[describe_cost(stage) for stage in files.stages],
        total_hours=sum(stage.seconds for stage in files.stages) / 3600,
        commit=read_commit(),
        machine=describe_machine(),
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        paths=[str(files.folder)],
    )


def build_gallery(files: ChainFiles) -> list[tuple[str, dict[str, str]]]:
    """Return (title, {backbone: data URI}) for the first images of each protocol, the same image side by side."""
    chosen: dict[str, int] = {}
    gallery = []
    for title, pictures in files.detections.items():
        protocol = title.rpartition(": ")[0]
        chosen[protocol] = chosen.get(protocol, 0) + 1
        if chosen[protocol] <= GALLERY_IMAGES:
            gallery.append((title, {name: inline_picture(path) for name, path in pictures.items()}))
    return gallery


def inline_picture(path: Path) -> str:
    """Return a picture as a data URI, brought to at most GALLERY_PX a side."""
    with Image.open(path) as image:
        picture = image.convert("RGB")
    picture.thumbnail((GALLERY_PX, GALLERY_PX))
    stream = BytesIO()
    picture.save(stream, "WEBP", quality=88)
    return "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode()


def inline_svg(path: Path) -> str:
    """Return an SVG figure as a data URI: as an image it cannot run scripts or clash with the page's ids."""
    return "data:image/svg+xml;base64," + base64.b64encode(path.read_bytes()).decode()


def describe_lineage(stage: Stage) -> dict[str, Any]:
    """Return where a result came from: weights, config, commit, jobs, hosts, GPUs, deviations."""
    result = stage.result
    if result is None:
        raise ValueError(f"{stage.folder}: has no result, so no lineage")
    return {
        "backbone": result.backbone,
        "protocol": result.protocol,
        "seed": result.seed,
        "weights": result.weights_sha256[:12],
        "config": _config_of(stage),
        "commit": result.commit[:12],
        "jobs": ", ".join(dict.fromkeys(str(attempt["job_id"]) for attempt in stage.attempts if attempt.get("job_id"))),
        "hosts": ", ".join(dict.fromkeys(str(attempt["host"]) for attempt in stage.attempts if attempt.get("host"))),
        "gpus": ", ".join(stage.gpus) or result.machine.get("cpu", ""),
        "deviations": "; ".join(f"{entry['key']} = {entry['got']}" for entry in result.deviations) or "none",
    }


def describe_cost(stage: Stage) -> dict[str, Any]:
    """Return what a stage cost: hours, attempts, and the faults it survived."""
    outcomes = [str(attempt.get("outcome") or "") for attempt in stage.attempts]
    survived = [outcome for outcome in outcomes[:-1] if outcome not in ("", "done")]
    return {
        "name": stage.name,
        "state": stage.state,
        "hours": stage.seconds / 3600,
        "gpu_hours": stage.seconds / 3600 * len(stage.gpus),
        "attempts": len(stage.attempts),
        "survived": ", ".join(survived) or "none",
        "error": str(stage.failed.get("message") or stage.failed.get("kind") or ""),
    }


def _config_of(stage: Stage) -> str:
    command = stage.spec.get("command") or []
    return next((str(word) for word in command if str(word).endswith(".yaml")), "")


def _for_script(value: Sequence[Mapping[str, Any]]) -> str:
    return json.dumps(value, allow_nan=False).replace("</", "<\\/")
