"""Detector settings: Detectron2's yacs node with a few keys of ours, read from one YAML that is complete in itself.

Added keys: PROTOCOL (the recipe's name), DATASETS.ROOT, DATASETS.COCO_FORMAT and DATASETS.VOC_CLASSES,
MODEL.CHANNELS_LAST, SOLVER.ACCUMULATE and SOLVER.CPU_BF16, and RUN (how a run behaves; nothing in it changes what is
learned).
"""

import difflib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from detectron2.config import CfgNode, get_cfg

from pretrain.runtime.settings import parse_value
from pretrain.runtime.yaml_nodes import FALSE, TRUE, plain_value, read_document
from transfer.detection.data.own_data import expand_own
from transfer.metrics.coco_ap import ENGINES
from transfer.weights import input_units

INPUT_UNITS: dict[str, dict[str, Any]] = {
    name: {
        "INPUT.FORMAT": unit.order,
        "MODEL.PIXEL_MEAN": list(unit.mean),
        "MODEL.PIXEL_STD": list(unit.std),
        "MODEL.RESNETS.STRIDE_IN_1X1": unit.stride_in_1x1,
    }
    for name, unit in input_units.INPUT_UNITS.items()
}
"""What a backbone expects of its input: four keys that only change together (see `transfer.weights.input_units`)."""


def set_input_unit(cfg: Any, name: str) -> None:
    """Set the four keys of an input unit, in place.

    Raises:
        ValueError: no unit has this name.

    """
    if name not in INPUT_UNITS:
        raise ValueError(f"pixel_format={name}: expected one of {', '.join(INPUT_UNITS)}, or manifest")
    cfg.merge_from_list([part for pair in INPUT_UNITS[name].items() for part in pair])


def make_default_config() -> Any:
    """Return Detectron2's defaults with our keys added."""
    cfg = get_cfg()
    cfg.PROTOCOL = ""
    cfg.BASED_ON = ""  # of a protocol of the user's own: the named one that holds where it says nothing
    cfg.DATASETS.ROOT = ""
    cfg.DATASETS.COCO_FORMAT = []  # [[name, annotation file, image folder], …], relative to ROOT
    cfg.DATASETS.VOC_CLASSES = []  # of a set in VOC's layout with classes of its own; empty: VOC's twenty
    cfg.DATASETS.VOC_FORMAT = []  # [[name, folder, list, classes], …], relative to ROOT; see own_data.py
    cfg.DATASETS.LABELLED_PERCENT = 100.0  # of the training images; which ones: see low_label.py
    cfg.DATASETS.LABELLED_FOLD = 1
    cfg.MODEL.CHANNELS_LAST = False
    cfg.SOLVER.CPU_BF16 = False  # train in bfloat16 on a CPU with instructions for it (AVX-512 BF16, AMX)
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
        if mistake := _merge(cfg, key, _read_value(text), known, "the command line"):
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
    """Return the name of the config's input unit.

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
    values = plain_value(read_document(path))
    if not isinstance(values, dict):
        raise ValueError(f"{path}: expected a mapping of settings at the top")  # noqa: TRY004 (the user's file)
    return values


def _read_value(text: str) -> Any:
    """Return a list or a boolean as YAML writes it; other texts stay for Detectron2's reader, Python's tuples too."""
    if text.lower() in TRUE | FALSE or text.startswith(("[", "{")):
        return parse_value(text)
    return text


def _merge(cfg: Any, key: str, value: Any, known: set[str], where: str) -> str:
    """Set one key; return a sentence about what is wrong, or nothing."""
    if key not in known:
        near = ", ".join(difflib.get_close_matches(key, known, 3, 0.5)) or "see Detectron2's config reference"
        return f"{where}: unknown setting {key}; did you mean {near}?"
    if isinstance(get_key(cfg, key), float) and re.fullmatch(r"[-+]?[0-9]+", str(value)):
        value = float(value)  # yacs takes no whole number for a fraction
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
