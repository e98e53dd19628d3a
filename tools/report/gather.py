"""Gather what a chain's stages left on disk: results, curves, figures, detections, attempts.

Reads the files of runs/<chain>/ only; a stage that is not done is a row without a result, never an error.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pretrain.storage import digest_file, read_json, read_json_lines
from tools.chain.plan import folder_name
from transfer.results import RESULT_NAME, RunResult, read_result

MAX_CURVE_POINTS = 300
"""A curve is thinned to so many points: more cannot be told apart on a screen."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One quantity of one stage over its steps or epochs."""

    chart: str
    """The chart it belongs to: curves with the same chart are drawn together."""
    name: str
    """The legend's text, e.g. "mochi"."""
    x: Sequence[float]
    y: Sequence[float]
    x_title: str


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture to show: a figure of the analyses, or drawn detections."""

    title: str
    path: Path


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What one stage left: where it ran, how often, how it ended."""

    name: str
    kind: str
    folder: Path
    state: str
    """done, failed, running, or pending."""
    spec: Mapping[str, Any]
    attempts: Sequence[Mapping[str, Any]] = ()
    done: Mapping[str, Any] = field(default_factory=dict)
    failed: Mapping[str, Any] = field(default_factory=dict)
    result: RunResult | None = None

    @property
    def seconds(self) -> float:
        """Wall-clock seconds over all attempts."""
        return sum(float(attempt.get("seconds") or 0.0) for attempt in self.attempts)

    @property
    def gpus(self) -> list[str]:
        """The GPUs of all attempts, each named once."""
        return list(dict.fromkeys(str(gpu) for attempt in self.attempts for gpu in _as_list(attempt.get("gpu"))))


@dataclass(frozen=True, kw_only=True)
class ChainFiles:
    """Everything that a report is written from."""

    name: str
    folder: Path
    chain: Mapping[str, Any]
    stages: Sequence[Stage]
    curves: Sequence[Curve]
    figures: Sequence[Picture]
    detections: Mapping[str, Mapping[str, Path]]
    """protocol → (column, e.g. "mochi" → picture); several images per protocol are numbered in the key."""

    @property
    def results(self) -> list[RunResult]:
        """Every result that is there, in the order of the stages."""
        return [stage.result for stage in self.stages if stage.result is not None]


def gather(folder: str | Path) -> ChainFiles:
    """Return what the chain in `folder` (runs/<name>) has so far.

    Raises:
        ValueError: `folder` holds no chain.json: it is no chain's folder.

    """
    folder = Path(folder)
    plan = folder / "chain.json"
    if not plan.is_file():
        raise ValueError(f"{folder}: no chain.json there; give the folder of a chain, such as runs/digits")
    chain = read_json(plan)
    stages = [_read_stage(folder / "stages" / name) for name in _planned_folders(folder, chain)]
    return ChainFiles(
        name=str(chain.get("name", folder.name)),
        folder=folder,
        chain=chain,
        stages=stages,
        curves=[curve for stage in stages for curve in _read_curves(stage)],
        figures=[picture for stage in stages if stage.kind == "analyse" for picture in _find_figures(stage)],
        detections=_find_detections(stages),
    )


def _planned_folders(folder: Path, chain: Mapping[str, Any]) -> list[str]:
    """Return the folders of the plan's stages, in its order; without a plan, all that are there."""
    if planned := [folder_name(entry["name"], entry["key"]) for entry in chain.get("stages", [])]:
        return planned
    return sorted(path.name for path in (folder / "stages").glob("*") if path.is_dir())


def _read_stage(folder: Path) -> Stage:
    spec = _read_if_there(folder / "spec.json")
    done, failed = _read_if_there(folder / "DONE.json"), _read_if_there(folder / "FAILED.json")
    attempts = [read_json(path) for path in sorted((folder / "attempts").glob("*.json"))]
    state = "done" if done else "failed" if failed else "running" if attempts else "pending"
    return Stage(
        name=str(spec.get("name", folder.name)),
        kind=str(spec.get("kind", "")),
        folder=folder,
        state=state,
        spec=spec,
        attempts=attempts,
        done=done,
        failed=failed,
        result=read_result(folder) if (folder / RESULT_NAME).is_file() else None,
    )


CURVES = {
    "loss": "Pretraining loss",
    "accuracy": "Proxy task: positive above every negative (%)",
    "accuracy_with_synthetic": "Proxy task with the synthetic negatives (%)",
    "knn_top1": "kNN accuracy while pretraining (%)",
}
"""Keys of a pretraining's metrics.jsonl and the charts they are drawn in."""
DETECTOR_CURVES = {
    "total_loss": "Detector loss",
    "AP": "AP while fine-tuning",
    "box/AP": "Box AP",
    "mask/AP": "Mask AP",
}
"""Keys of a detector's metrics.jsonl and their charts."""


def _read_curves(stage: Stage) -> Iterator[Curve]:
    lines = read_json_lines(stage.folder / "metrics.jsonl")
    charts = CURVES if stage.kind == "pretrain" else DETECTOR_CURVES
    protocol = f", {stage.result.protocol}" if stage.result else ""
    label = stage.result.backbone if stage.result else stage.name.removeprefix("pretrain-")
    if stage.result and stage.result.seed:
        label += f" (seed {stage.result.seed})"
    for key, chart in charts.items():
        points = [(_position(line), line[key]) for line in lines if isinstance(line.get(key), int | float)]
        if len(points) > 1:
            points = points[:: -(-len(points) // MAX_CURVE_POINTS)]
            xs, ys = zip(*points, strict=True)
            yield Curve(
                chart=chart + (protocol if charts is DETECTOR_CURVES else ""), name=label, x=xs, y=ys, x_title="step"
            )


def _position(line: Mapping[str, Any]) -> float:
    return float(line.get("step", line.get("iteration", 0)))


def _find_figures(stage: Stage) -> Iterator[Picture]:
    for path in sorted(stage.folder.rglob("*.svg")):
        yield Picture(title=path.stem.replace("_", " "), path=path)


def _find_detections(stages: Sequence[Stage]) -> dict[str, dict[str, Path]]:
    found: dict[str, dict[str, Path]] = {}
    for stage in stages:
        if stage.result is None or stage.result.seed != min(_seeds_like(stages, stage.result)):
            continue
        for path in sorted((stage.folder / "detections").glob("*.png")):
            found.setdefault(f"{stage.result.protocol}: {path.stem}", {})[stage.result.backbone] = path
    return found


def _seeds_like(stages: Sequence[Stage], result: RunResult) -> list[int]:
    alike = (stage.result for stage in stages if stage.result is not None)
    return [other.seed for other in alike if (other.backbone, other.protocol) == (result.backbone, result.protocol)]


def digest_inputs(files: ChainFiles) -> dict[str, str]:
    """Return {stage folder: SHA-256 of its result}, so that a report knows when it is out of date."""
    return {
        stage.folder.name: digest_file(stage.folder / RESULT_NAME) for stage in files.stages if stage.result is not None
    }


def _read_if_there(path: Path) -> dict[str, Any]:
    return dict(read_json(path)) if path.is_file() else {}


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value in (None, "") else [value]
