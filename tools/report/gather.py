"""Read results, curves, figures, detections and attempts of a chain's stages from runs/<chain>/.

An unfinished stage is included without a result.
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
"""The last file that tools.analyse_encoder writes: the scalars of every encoder."""

TITLES = {
    "hardness_histogram": "Hardness of the negatives",
    "proxy_accuracy": "Proxy task",
    "false_negatives": "False negatives",
    "oracle": "Class oracle",
    "alignment_uniformity": "Alignment and uniformity",
    "class_distances": "Distances of the classes",
}
"""Titles of the figures of tools.analyse_encoder; others are titled after their file."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A figure of an analyse stage."""

    title: str
    path: Path
    definition: str = ""
    """Definition of its numbers."""


@dataclass(frozen=True, kw_only=True)
class ChainFiles:
    """The files of a chain that its report is written from."""

    name: str
    folder: Path
    chain: Mapping[str, Any]
    stages: Sequence[Stage]
    curves: Sequence[Curve]
    figures: Sequence[Picture]
    analysis: Mapping[str, Any] = field(default_factory=dict)
    """The content of the last analyse stage's analysis.json; empty if there is none."""
    detections: Mapping[str, Mapping[str, Path]]
    """`protocol: image` → (method → picture)."""

    @property
    def results(self) -> list[RunResult]:
        """All results, in the order of the stages."""
        return [stage.result for stage in self.stages if stage.result is not None]


def gather(folder: str | Path) -> ChainFiles:
    """Return the files that the chain in `folder` (runs/<name>) has so far.

    Raises:
        ValueError: `folder` contains no chain.json.

    """
    folder = Path(folder)
    plan = folder / "chain.json"
    if not plan.is_file():
        raise ValueError(f"{folder}: contains no chain.json; expected the folder of a chain, such as runs/digits")
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
    """Return the names of the stages' folders in the order of the plan; without a plan, all folders."""
    if planned := [folder_name(entry["name"], entry["key"]) for entry in chain.get("stages", [])]:
        return planned
    return sorted(path.name for path in (folder / "stages").glob("*") if path.is_dir())


def read_outline(chain: Mapping[str, Any]) -> ChainConfig:
    """Return a config with the grid and the names of the backbones and protocols in chain.json."""
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
    """Return the images drawn by one run per method and protocol: the lowest seed of its first pretraining."""
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
    """Return {stage folder: SHA-256 of its result}, to detect an outdated report."""
    return {
        stage.folder.name: digest_file(stage.folder / RESULT_NAME) for stage in files.stages if stage.result is not None
    }
