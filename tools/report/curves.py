"""Read the learning curves of stages."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pretrain.runtime.storage import read_json_lines
from tools.report.stage_record import Stage
from transfer.results.seeds import method_of

MAX_POINTS = 300
"""Maximum points per curve; more cannot be distinguished on a screen."""
MAX_EPOCHS = 6
"""Maximum hardness curves per pretraining; the first and the last epoch are always drawn."""
RANKS = 60
"""Points of a hardness curve, evenly spaced on a logarithmic axis."""

PRETRAINING = {
    "loss": ("Pretraining loss", "InfoNCE (nats)"),
    "accuracy": ("Proxy task: positive above every real negative", "queries (%)"),
    "accuracy_with_mixes": ("Proxy task, including mixed negatives", "queries (%)"),
    "knn_top1": ("kNN accuracy during pretraining", "top-1 (%)"),
    "hardest_share": ("Probability of the hardest negative", "softmax share"),
    "false_negatives": ("False negatives among the hardest", "negatives (%)"),
    "uniformity": ("Uniformity of the keys", "log mean exp(−2‖x−y‖²)"),
    "intra_variance": ("Intra-class variance of the keys", "mean ‖x−μ‖²"),
    "inter_distance": ("Inter-class distance of the keys", "mean ‖μ−μ′‖"),
    "separation": ("Class distance over class spread", "distance / spread"),
}
"""Keys of a pretraining's metrics.jsonl → (title of their chart, its y axis)."""
DETECTOR = {
    "total_loss": ("Detector loss", "loss"),
    "AP": ("AP during fine-tuning", "AP (%)"),
    "box/AP": ("Box AP during fine-tuning", "AP (%)"),
    "mask/AP": ("Mask AP during fine-tuning", "AP (%)"),
}
"""Keys of a detector's metrics.jsonl → (title of their chart, its y axis)."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One quantity of one stage over its steps, epochs or ranks."""

    chart: str
    """Title of its chart; curves with the same title are drawn together."""
    name: str
    """Its label, e.g. "mochi (seed 1)"."""
    method: str
    """Its method; the runs of one method share a colour and a legend entry."""
    x: Sequence[float]
    y: Sequence[float]
    x_title: str
    y_title: str
    logarithmic: bool = False
    """Whether both axes are logarithmic."""


def read_all_curves(stages: Sequence[Stage]) -> Iterator[Curve]:
    """Yield the curves of all stages; hardness curves only of the first pretraining of each method."""
    shown: set[str] = set()
    for stage in stages:
        method = method_of(stage.name.removeprefix("pretrain-"))
        yield from read_curves(stage, hardness=method not in shown)
        if stage.kind == "pretrain":
            shown.add(method)


def read_curves(stage: Stage, *, hardness: bool = True) -> Iterator[Curve]:
    """Yield the curves of a stage that have at least two points; hardness curves only with `hardness`."""
    if stage.kind == "pretrain":
        lines, encoder = _read_lines(stage), stage.name.removeprefix("pretrain-")
        method, _, seed = encoder.rpartition("@") if method_of(encoder) != encoder else (encoder, "", "")
        yield from _take(PRETRAINING, lines, f"{method} (seed {seed})" if seed else method, method)
        yield from _read_hardness(lines, method) if hardness else ()
    elif stage.result is not None and stage.kind == "linear":
        yield from _read_linear(stage)
    elif stage.kind != "knn":
        lines, suffix, method = _read_lines(stage), "", stage.name
        if stage.result is not None:
            method = method_of(stage.result.backbone)
        if stage.result is not None and lines:
            lines.append({"step": _position(lines[-1]), **stage.result.metrics})  # the final evaluation
            suffix = f", {stage.result.protocol}"
        yield from _take(DETECTOR, lines, _label(stage), method, suffix)


def _take(
    charts: Mapping[str, tuple[str, str]],
    lines: Sequence[Mapping[str, Any]],
    name: str,
    method: str,
    suffix: str = "",
) -> Iterator[Curve]:
    for key, (chart, y_title) in charts.items():
        points = [(_position(line), line[key]) for line in lines if isinstance(line.get(key), int | float)]
        if len(points) > 1:
            kept = points[:: -(-len(points) // MAX_POINTS)]
            kept = kept if kept[-1] == points[-1] else [*kept, points[-1]]
            xs, ys = zip(*kept, strict=True)
            title = chart + suffix
            yield Curve(chart=title, name=name, method=method, x=xs, y=ys, x_title="step", y_title=y_title)


def _read_hardness(lines: Sequence[Mapping[str, Any]], name: str) -> Iterator[Curve]:
    """Yield hardness curves by epoch: softmax probability against the rank of the negative [MoCHi, figure 2a]."""
    looks = [line for line in lines if line.get("hardness")]
    if len(looks) > MAX_EPOCHS:
        looks = [looks[round(place * (len(looks) - 1) / (MAX_EPOCHS - 1))] for place in range(MAX_EPOCHS)]
    for line in looks if len(looks) > 1 else []:
        curve = [share for share in line["hardness"] if share > 0]  # 0 cannot be drawn on a logarithmic axis
        ranks = sorted({round(len(curve) ** (place / (RANKS - 1))) for place in range(RANKS)})
        yield Curve(
            chart=f"Hardness of the negatives by epoch, {name}",
            name=f"epoch {line['epoch']:g}",
            method=f"epoch {line['epoch']:g}",
            x=ranks,
            y=[curve[rank - 1] for rank in ranks],
            x_title="negative's rank, hardest first",
            y_title="mean probability (softmax)",
            logarithmic=True,
        )


def _read_linear(stage: Stage) -> Iterator[Curve]:
    assert stage.result is not None
    points = stage.result.details.get("curve") or []
    if len(points) > 1:
        yield Curve(
            chart=f"Linear accuracy during training, {stage.result.protocol}",
            name=_label(stage),
            method=method_of(stage.result.backbone),
            x=[point["epoch"] for point in points],
            y=[point["top1"] for point in points],
            x_title="epoch",
            y_title="top-1 (%)",
        )


def _label(stage: Stage) -> str:
    if stage.result is None:
        return stage.name
    seed = f" (seed {stage.result.seed})" if stage.result.seed else ""
    return f"{stage.result.backbone}{seed}"


def _read_lines(stage: Stage) -> list[dict[str, Any]]:
    return read_json_lines(stage.folder / "metrics.jsonl")


def _position(line: Mapping[str, Any]) -> float:
    return float(line.get("step", line.get("iteration", 0)))
