"""Detector settings: Detectron2's yacs node with a few keys of ours, read from one YAML that is complete in itself.

Added keys: PROTOCOL (the recipe's name), DATASETS.ROOT and DATASETS.COCO_FORMAT, MODEL.CHANNELS_LAST,
SOLVER.ACCUMULATE, and RUN (how a run behaves; nothing in it changes what is learned).
"""

import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from detectron2.config import CfgNode, get_cfg

from transfer.detection.data.own_data import expand_own
from transfer.metrics.coco_ap import ENGINES

INPUT_UNITS: dict[str, dict[str, Any]] = {
    "torchvision": {
        "INPUT.FORMAT": "RGB",
        "MODEL.PIXEL_MEAN": [123.675, 116.28, 103.53],
        "MODEL.PIXEL_STD": [58.395, 57.12, 57.375],
        "MODEL.RESNETS.STRIDE_IN_1X1": False,
    },
    "msra": {
        "INPUT.FORMAT": "BGR",
        "MODEL.PIXEL_MEAN": [103.53, 116.28, 123.675],
        "MODEL.PIXEL_STD": [1.0, 1.0, 1.0],
        "MODEL.RESNETS.STRIDE_IN_1X1": True,
    },
}
"""What a backbone expects of its input: four keys that only change together (torchvision's, Detectron2's R-50.pkl)."""


def make_default_config() -> Any:
    """Return Detectron2's defaults with our keys added."""
    cfg = get_cfg()
    cfg.PROTOCOL = ""
    cfg.BASED_ON = ""  # of a protocol of the user's own: the named one that holds where it says nothing
    cfg.DATASETS.ROOT = ""
    cfg.DATASETS.COCO_FORMAT = []  # [[name, annotation file, image folder], …], relative to ROOT
    cfg.DATASETS.VOC_FORMAT = []  # [[name, folder, list, classes], …], relative to ROOT; see transfer/detection/data/own_data.py
    cfg.DATASETS.LABELLED_PERCENT = 100.0  # of the training images; which ones: transfer/detection/data/low_label.py
    cfg.DATASETS.LABELLED_FOLD = 1
    cfg.MODEL.CHANNELS_LAST = False
    cfg.SOLVER.ACCUMULATE = 1  # batches of IMS_PER_BATCH / ACCUMULATE images in one step
    cfg.RUN = CfgNode()
    cfg.RUN.CHECKPOINT_MINUTES = 15.0
    cfg.RUN.KEEP_CHECKPOINTS = 2
    cfg.RUN.LOG_EVERY_STEPS = 20
    cfg.RUN.DRAW_IMAGES = 8
    cfg.RUN.REEVALUATE_IMAGES = 0  # on a CPU, of each test set, by the saved file; 0: all of them
    cfg.RUN.COCO_ENGINE = ENGINES[0]  # of the COCO metric; pycocotools is the judge, and slower a hundred times
    cfg.MODEL.DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
    return cfg


def read_detector_config(path: str | Path, overrides: Sequence[str] = ()) -> Any:
    """Return the config of a YAML file, then "KEY.SUB=value" overrides (values as YAML reads them).

    Raises:
        ValueError: no such file, no valid YAML, an unknown key (names its neighbours) or an ill-typed value.

    """
    cfg = make_default_config()
    path = Path(path)
    values = expand_own(_read_yaml(path), path, _read_yaml)
    if "_BASE_" in values:
        raise ValueError(
            f"{path}: a detector's config is complete in itself; copy what {values['_BASE_']} says into it"
        )
    known = {name for name, _ in _flatten(cfg)}
    mistakes = [text for key, value in _flatten(values) if (text := _merge(cfg, key, value, known, str(path)))]
    for override in overrides:
        key, sign, text = override.partition("=")
        if not sign:
            raise ValueError(f"the command line: expected KEY=value, got {override!r}")
        if mistake := _merge(cfg, key, text, known, "the command line"):
            mistakes.append(mistake)
    if cfg.RUN.COCO_ENGINE not in ENGINES:
        mistakes.append(f"{path}: RUN.COCO_ENGINE={cfg.RUN.COCO_ENGINE}: expected {' or '.join(ENGINES)}")
    if mistakes:
        raise ValueError("\n".join(mistakes))
    return cfg


def flatten_config(cfg: Any) -> dict[str, Any]:
    """Return {"MODEL.MASK_ON": False, …}, tuples as lists, sorted by key."""
    return dict(sorted(_flatten(yaml.safe_load(cfg.dump()))))


def find_input_unit(cfg: Any) -> str:
    """Return "torchvision" or "msra".

    Raises:
        ValueError: the four keys of the input unit are mixed; the text lists them.

    """
    got = {key: get_key(cfg, key) for key in INPUT_UNITS["torchvision"]}
    for name, unit in INPUT_UNITS.items():
        if got == unit:
            return name
    listed = "; ".join(f"{name}: {unit}" for name, unit in INPUT_UNITS.items())
    raise ValueError(
        f"the input unit is mixed: got {got}. These four keys only change together, and a mixture costs many AP "
        f"without an error; allowed are {listed}"
    )


def get_key(cfg: Any, key: str) -> Any:
    """Return the value at a dotted key, tuples as lists."""
    for part in key.split("."):
        cfg = cfg[part]
    return list(cfg) if isinstance(cfg, tuple) else cfg


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"{path}: no such config file; see configs/transfer for those that come with the project")
    try:
        values = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path}: expected a mapping of settings at the top")  # noqa: TRY004 (the user's file)
    return values


def _merge(cfg: Any, key: str, value: Any, known: set[str], where: str) -> str:
    """Set one key; return a sentence about what is wrong, or nothing."""
    if key not in known:
        near = ", ".join(difflib.get_close_matches(key, known, 3, 0.5)) or "see Detectron2's config reference"
        return f"{where}: unknown setting {key}; did you mean {near}?"
    try:
        cfg.merge_from_list([key, value])
    except (ValueError, KeyError, AssertionError) as error:
        return f"{where}: {key}: {error}"
    return ""


def _flatten(values: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
