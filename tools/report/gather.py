"""Gather what a chain's stages left on disk: results, curves, figures, detections, attempts.

Reads the files of runs/<chain>/ only; a stage that is not done is a row without a result, never an error.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pretrain.runtime.storage import digest_file, read_json
from tools.chain.plan.config import Backbone, ChainConfig, Protocol
from tools.chain.plan.make_plan import folder_name
from tools.chain.plan.sweep import list_points
from tools.report.curves import Curve, read_all_curves
from tools.report.stage_record import Stage, read_stage
from transfer.results.run_result import RESULT_NAME, RunResult
from transfer.results.seeds import method_of

ANALYSIS_SUMMARY = "analysis.json"
"""What tools.analyse_encoder writes last: the scalars of every encoder."""

TITLES = {
    "hardness_histogram": "Hardness of the negatives",
    "proxy_accuracy": "Proxy task",
    "false_negatives": "False negatives",
    "oracle": "Class oracle",
    "alignment_uniformity": "Alignment and uniformity",
    "class_distances": "Distances of the classes",
}
"""What the page calls the figures of tools.analyse_encoder; others go by their file's name."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A figure of the analyses."""

    title: str
    path: Path
    definition: str = ""
    """What its numbers are."""


@dataclass(frozen=True, kw_only=True)
class ChainFiles:
    """Everything that a report is written from."""

    name: str
    folder: Path
    chain: Mapping[str, Any]
    stages: Sequence[Stage]
    curves: Sequence[Curve]
    figures: Sequence[Picture]
    analysis: Mapping[str, Any] = field(default_factory=dict)
    """The content of the newest analysis.json; empty when there is none."""
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
    points = {point.name: point.values for point in list_points(read_outline(chain))}
    stages = [read_stage(folder / "stages" / name, points) for name in _planned_folders(folder, chain)]
    analyses = [stage.folder / ANALYSIS_SUMMARY for stage in stages if stage.kind == "analyse"]
    return ChainFiles(
        name=str(chain.get("name", folder.name)),
        folder=folder,
        chain=chain,
        stages=stages,
        curves=list(read_all_curves(stages)),
        figures=[picture for stage in stages if stage.kind == "analyse" for picture in _find_figures(stage)],
        analysis=next((read_json(path) for path in reversed(analyses) if path.is_file()), {}),
        detections=_find_detections(stages),
    )


def _planned_folders(folder: Path, chain: Mapping[str, Any]) -> list[str]:
    """Return the folders of the plan's stages, in its order; without a plan, all that are there."""
    if planned := [folder_name(entry["name"], entry["key"]) for entry in chain.get("stages", [])]:
        return planned
    return sorted(path.name for path in (folder / "stages").glob("*") if path.is_dir())


def read_outline(chain: Mapping[str, Any]) -> ChainConfig:
    """Return the names of a chain's backbones and protocols and its grid, as chain.json has them."""
    config = chain.get("config") or {}
    return ChainConfig(
        grid=config.get("grid") or {},
        backbones={name: Backbone() for name in config.get("backbones") or {}},
        protocols={name: Protocol() for name in config.get("protocols") or {}},
    )


def _find_figures(stage: Stage) -> Iterator[Picture]:
    for path in sorted(stage.folder.rglob("*.svg")):
        numbers = path.with_suffix(".json")
        definition = str(read_json(numbers).get("definition", "")) if numbers.is_file() else ""
        yield Picture(title=TITLES.get(path.stem, path.stem.replace("_", " ")), path=path, definition=definition)


def _find_detections(stages: Sequence[Stage]) -> dict[str, dict[str, Path]]:
    """Return the drawn images of the first pretraining's lowest seed of every method and protocol."""
    first: dict[tuple[str, str], Stage] = {}
    for stage in stages:
        if (result := stage.result) is not None:
            place = result.protocol, method_of(result.backbone)
            held = first.setdefault(place, stage).result
            if held is not None and result.backbone == held.backbone and result.seed < held.seed:
                first[place] = stage
    found: dict[str, dict[str, Path]] = {}
    for (protocol, backbone), stage in first.items():
        for path in sorted((stage.folder / "detections").glob("*.png")):
            found.setdefault(f"{protocol}: {path.stem}", {})[backbone] = path
    return found


def digest_inputs(files: ChainFiles) -> dict[str, str]:
    """Return {stage folder: SHA-256 of its result}, so that a report knows when it is out of date."""
    return {
        stage.folder.name: digest_file(stage.folder / RESULT_NAME) for stage in files.stages if stage.result is not None
    }
