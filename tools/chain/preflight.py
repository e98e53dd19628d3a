"""Look at everything that the stages of a chain will look at, before anything is submitted: all mistakes at once.

Every config and key is read by the very reader of the stage's tool, weights are opened, data folders looked at. What a
stage of an earlier submit holds was looked at then.
"""

import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pretrain.config import PretrainConfig
from pretrain.runtime.machine import PROJECT_ROOT
from pretrain.runtime.settings import read_settings
from tools.chain.plan.config import ChainConfig, read_chain
from tools.chain.plan.make_plan import draft_stages
from tools.chain.plan.resources import look_up_resources
from tools.chain.plan.stage_commands import Draft
from tools.chain.record.state import stage_folder
from tools.chain.submit import Chain, list_places, open_chain

LATER = "@"
"""First sign of a path that is known only when the stage starts."""
LARGE_COCO_BYTES = 64 * 1024 * 1024
"""A COCO annotation file above this is looked for and not read: reading COCO's own takes half a minute."""


@dataclass
class Survey:
    """What was found."""

    problems: dict[str, list[str]] = field(default_factory=dict)
    """Sentence → the stages that it is about."""
    notes: dict[str, str] = field(default_factory=dict)
    """Stage → what its weights or settings are."""
    depths: dict[str, int] = field(default_factory=dict)
    """Backbone → depth of its ResNet."""
    pretrainings: dict[str, PretrainConfig] = field(default_factory=dict)
    """Backbone → settings of its pretraining."""
    ranks: dict[str, int] = field(default_factory=dict)
    """Stage → processes that it will have."""

    def add(self, stage: str, error: Exception) -> None:
        """Note what is wrong with a stage."""
        for line in str(error).splitlines():
            self.problems.setdefault(line, []).append(stage)

    def copy(self, first: Draft, other: Draft) -> None:
        """Take over what was found about a stage that is checked alike."""
        for names in self.problems.values():
            if first.name in names:
                names.append(other.name)
        if first.name in self.notes:
            self.notes[other.name] = self.notes[first.name]
        if first.backbone in self.depths:
            self.depths.setdefault(other.backbone, self.depths[first.backbone])

    def say_problems(self) -> list[str]:
        """Return one sentence per problem, with the first stage that has it and how many more have."""
        lines = []
        for text, names in self.problems.items():
            more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            lines.append(f"{names[0]}{more}: {text}")
        return lines


def open_checked(path: Path, words: Sequence[str]) -> tuple[Chain, Survey]:
    """Return a chain whose stages were all looked at.

    Raises:
        ValueError: with everything that is wrong, in the chain file and behind it.

    """
    config = read_chain(path, tuple(words))
    drafts, problems = draft_stages(config, list_places(path))
    chain = open_chain(path, words) if not problems else None
    known = {} if chain is None else {stage.name: stage_folder(chain.folder, stage.folder) for stage in chain.stages}
    new = [draft for draft in drafts if draft.name not in known or not (known[draft.name] / "spec.json").is_file()]
    survey = survey_stages(config, new)
    problems += survey.say_problems()
    if problems or chain is None:
        count = f"{len(problems)} mistakes" if len(problems) > 1 else "one mistake"
        raise ValueError("\n".join([f"{path}: {count}, nothing is started:", *problems]))
    return chain, survey


def survey_stages(config: ChainConfig, drafts: Sequence[Draft], code: Path = PROJECT_ROOT) -> Survey:
    """Return what is wrong with the stages, and what they are."""
    survey = Survey()
    if config.backend == "slurm":
        for draft in drafts:
            asked = look_up_resources(config.resources, draft.labels, is_light=draft.is_light)
            survey.ranks[draft.name] = max(1, asked.gpus * asked.nodes)
    if config.data.root and not Path(config.data.root).is_dir():
        survey.problems[f"data.root: {Path(config.data.root).absolute()} is no folder"] = ["data"]
    checks: dict[str, Callable[[Draft, list[str], Survey], None]] = {
        "data": _check_digits,
        "pretrain": _check_pretrain,
        "convert": _check_convert,
        "detector": _check_detector,
        "linear": _check_linear,
        "knn": _check_knn,
        "analyse": _check_analysis,
    }
    seen: dict[tuple[object, ...], Draft] = {}
    for draft in drafts:
        if draft.kind not in checks:
            continue
        words = [_hide_placeholders(word.replace("{code}", str(code))) for word in draft.command[3:]]
        first = seen.setdefault(_what_counts(draft, words, survey), draft)
        if first is not draft:
            survey.copy(first, draft)
            continue
        try:
            with warnings.catch_warnings(action="ignore"):  # of libraries at their import; the stages show them
                checks[draft.kind](draft, words, survey)
        except (ValueError, OSError) as error:
            survey.add(draft.name, error)
    return survey


def _what_counts(draft: Draft, words: list[str], survey: Survey) -> tuple[object, ...]:
    """Return what the check of a stage depends on: another seed or another name gives the same answer."""
    names = ("out=", "seed=", "backbone=", "run.seed=")
    weights = words[1:2] if draft.protocol else []
    kept = [word for word in words if not word.startswith(names) and word not in weights]
    return draft.kind, survey.depths.get(draft.backbone), survey.ranks.get(draft.name), *kept


def _hide_placeholders(word: str) -> str:
    """Return the word with each {placeholder} as text that no reader takes for YAML."""
    return re.sub(r"\{((?:out|chain|python|stage:[^{}]+))\}", rf"{LATER}\1", word)


def _check_digits(_draft: Draft, words: list[str], _survey: Survey) -> None:
    from tools.make_digits import DigitsConfig  # heavy: drawing

    read_settings(DigitsConfig, None, words[1:])


def _check_pretrain(draft: Draft, words: list[str], survey: Survey) -> None:
    from pretrain.config_checks import check_config  # heavy: torch

    config = read_settings(PretrainConfig, words[0], words[1:])
    survey.pretrainings[draft.backbone] = config
    survey.depths[draft.backbone] = int("".join(filter(str.isdigit, config.model.arch)) or 0)
    check_config(config, survey.ranks.get(draft.name, 1))
    if config.run.epochs == 0:
        survey.notes[draft.name] = "random initialisation"
    elif config.data.cache:
        _look_for_folder(config.data.cache, "data.cache")
    else:
        _look_for_images(config.data.root, "train")


def _check_convert(draft: Draft, words: list[str], survey: Survey) -> None:
    if words[0].startswith(LATER):
        return
    from tools.convert_checkpoint import ConvertSettings  # heavy, as the next: torch
    from transfer.weights.backbone import read_backbone

    settings = read_settings(ConvertSettings, None, words[2:])
    if "://" in words[0] or not Path(words[0]).is_file():
        return
    found = read_backbone(words[0], family=settings.family, branch=settings.branch, trust_pickle=settings.trust_pickle)
    survey.depths[draft.backbone] = found.depth
    survey.notes[draft.name] = f"ResNet-{found.depth}, {found.family}, {found.branch} branch"


def _check_detector(draft: Draft, words: list[str], survey: Survey) -> None:
    from tools.finetune_detector import FinetuneSettings, split_words  # heavy, as the next: Detectron2
    from transfer.detection.config import find_pixel_format, read_detector_config
    from transfer.detection.data.datasets import register_datasets
    from transfer.detection.data.own_sets import settle_own_data
    from transfer.detection.protocols import match_depth

    ours, keys = split_words(words[2:])
    settings = read_settings(FinetuneSettings, None, ours)
    cfg = read_detector_config(words[0], keys)
    find_pixel_format(cfg)
    depth = survey.depths.get(draft.backbone)
    cfg = match_depth(cfg, depth) if depth else cfg
    if depth and depth != cfg.MODEL.RESNETS.DEPTH:
        raise ValueError(
            f"MODEL.RESNETS.DEPTH is {cfg.MODEL.RESNETS.DEPTH}, and {draft.backbone} is a ResNet-{depth}; take weights "
            f"of that depth, or set: [MODEL.RESNETS.DEPTH={depth}]"
        )
    if settings.batch_rule != "same":
        survey.notes[draft.name] = f"batch rule {settings.batch_rule}, divisor {settings.divisor}"
    if settings.data.startswith(LATER) or not Path(settings.data).is_dir():
        return
    cfg.DATASETS.ROOT = settings.data
    large = [path for path in Path(settings.data).glob("coco/annotations/*.json") if _size(path) > LARGE_COCO_BYTES]
    cfg = settle_own_data(cfg)
    if not large or not any("coco" in name for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)):
        register_datasets(cfg)


def _check_linear(_draft: Draft, words: list[str], _survey: Survey) -> None:
    from transfer.probes.linear_heads import LinearConfig, check_linear_config  # heavy: torch

    config = read_settings(LinearConfig, words[0], words[2:])
    check_linear_config(config)
    _look_for_images(config.data, "train", "val")


def _check_knn(_draft: Draft, words: list[str], _survey: Survey) -> None:
    from transfer.probes.knn_run import KnnConfig, check_knn_config  # heavy: torch

    config = read_settings(KnnConfig, words[0], words[2:])
    check_knn_config(config)
    _look_for_images(config.data, "train", "val")


def _check_analysis(_draft: Draft, words: list[str], _survey: Survey) -> None:
    from transfer.analysis.config import AnalysisConfig, check_analysis_config

    config = read_settings(AnalysisConfig, words[0], [word for word in words[1:] if f"={LATER}stage:" not in word])
    check_analysis_config(replace(config, data=config.data or LATER))


def _look_for_images(root: str, *splits: str) -> None:
    if root.startswith(LATER) or not root:
        return
    folders = [Path(root) / split for split in splits]
    missing = [str(path) for path in folders if not path.is_dir()]
    if missing:
        raise ValueError(f"{' and '.join(missing)}: no such folder of images (expected <split>/<class>/*.JPEG)")
    for folder in folders:
        if next(_list_images(folder), None) is None:
            raise ValueError(f"{folder}: holds no image (expected {folder.name}/<class>/*.JPEG)")


def _list_images(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp", ".bmp"))


def _look_for_folder(path: str, key: str) -> None:
    if not path.startswith(LATER) and not Path(path).is_dir():
        raise ValueError(f"{key}: {path} is no folder")


def _size(path: Path) -> int:
    return path.stat().st_size
