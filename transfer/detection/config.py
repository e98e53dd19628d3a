"""Detector configs: Detectron2's yacs node with additional keys, read from one self-contained YAML file.

The additional keys are listed in `make_default_config`. RUN holds keys that do not affect the trained weights.
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
from transfer.weights import pixel_formats

PIXEL_FORMATS: dict[str, dict[str, Any]] = {
    name: {
        "INPUT.FORMAT": pixels.order,
        "MODEL.PIXEL_MEAN": list(pixels.mean),
        "MODEL.PIXEL_STD": list(pixels.std),
        "MODEL.RESNETS.STRIDE_IN_1X1": pixels.stride_in_1x1,
    }
    for name, pixels in pixel_formats.PIXEL_FORMATS.items()
}
"""The four config keys of each pixel format, always set together (see `transfer.weights.pixel_formats`)."""


def set_pixel_format(cfg: Any, name: str) -> None:
    """Set the four keys of a pixel format, in place.

    Raises:
        ValueError: no pixel format has this name.

    """
    if name not in PIXEL_FORMATS:
        raise ValueError(f"pixel_format={name}: expected one of {', '.join(PIXEL_FORMATS)}, or manifest")
    cfg.merge_from_list([part for pair in PIXEL_FORMATS[name].items() for part in pair])


def make_default_config() -> Any:
    """Return Detectron2's default config with this project's keys added."""
    cfg = get_cfg()
    cfg.PROTOCOL = ""
    cfg.BASED_ON = ""  # named protocol that a user-defined one inherits from
    cfg.DATASETS.ROOT = ""
    cfg.DATASETS.COCO_FORMAT = []  # [[name, annotation file, image folder], …], relative to ROOT
    cfg.DATASETS.VOC_CLASSES = []  # class names of VOC-layout sets; empty: VOC's twenty
    cfg.DATASETS.VOC_FORMAT = []  # [[name, folder, list, classes], …], relative to ROOT; see own_data.py
    cfg.DATASETS.LABELLED_PERCENT = 100.0  # percent of the training images to use; see low_label.py
    cfg.DATASETS.LABELLED_FOLD = 1
    cfg.MODEL.CHANNELS_LAST = False
    cfg.SOLVER.CPU_BF16 = False  # train in bfloat16 on a CPU that supports it (AVX-512 BF16, AMX)
    cfg.SOLVER.ACCUMULATE = 1  # batches of IMS_PER_BATCH / ACCUMULATE images per optimizer step
    cfg.RUN = CfgNode()
    cfg.RUN.CHECKPOINT_MINUTES = 15.0
    cfg.RUN.KEEP_CHECKPOINTS = 2
    cfg.RUN.LOG_EVERY_STEPS = 20
    cfg.RUN.DRAW_IMAGES = 8
    cfg.RUN.REEVALUATE_IMAGES = 0  # on a CPU: images per test set to re-evaluate from the saved file; 0: all
    cfg.RUN.COCO_ENGINE = ENGINES[0]  # of the COCO metric; pycocotools is the reference, about 100 times slower
    cfg.MODEL.DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
    return cfg


def read_detector_config(path: str | Path, overrides: Sequence[str] = ()) -> Any:
    """Return the config of a YAML file, then "KEY.SUB=value" overrides (values as YAML reads them).

    Raises:
        ValueError: no such file, invalid YAML, an unknown key (suggests similar ones) or a value of the wrong type.

    """
    cfg = make_default_config()
    path = Path(path)
    values = expand_own(_read_yaml(path), path, _read_yaml)
    if "_BASE_" in values:
        raise ValueError(
            f"{path}: _BASE_ is not supported, because a detector config is self-contained; copy the keys of "
            f"{values['_BASE_']} into it"
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


def find_pixel_format(cfg: Any) -> str:
    """Return the name of the config's pixel format.

    Raises:
        ValueError: the four keys match no pixel format; the message lists the known ones.

    """
    got = {key: get_key(cfg, key) for key in PIXEL_FORMATS["torchvision"]}
    for name, values in PIXEL_FORMATS.items():
        if got == values:
            return name
    listed = "; ".join(f"{name}: {values}" for name, values in PIXEL_FORMATS.items())
    raise ValueError(
        f"the pixel format is inconsistent: got {got}. Set these four keys together: a mismatch lowers the AP without "
        f"an error; expected one of {listed}"
    )


def get_key(cfg: Any, key: str) -> Any:
    """Return the value at a dotted key, tuples as lists."""
    for part in key.split("."):
        cfg = cfg[part]
    return list(cfg) if isinstance(cfg, tuple) else cfg


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"{path}: no such config file; see configs/transfer for the provided ones")
    values = plain_value(read_document(path))
    if not isinstance(values, dict):
        raise ValueError(f"{path}: expected a mapping of config keys at the top level")  # noqa: TRY004 (the user's file)
    return values


def _read_value(text: str) -> Any:
    """Parse a YAML list, mapping or boolean; leave any other text, such as a Python tuple, to Detectron2's parser."""
    if text.lower() in TRUE | FALSE or text.startswith(("[", "{")):
        return parse_value(text)
    return text


def _merge(cfg: Any, key: str, value: Any, known: set[str], where: str) -> str:
    """Set one key; return an error message, or an empty string."""
    if key not in known:
        near = difflib.get_close_matches(key, known, 3, 0.5)
        hint = f"did you mean {', '.join(near)}?" if near else "see the config reference of Detectron2"
        return f"{where}: unknown setting {key}; {hint}"
    if isinstance(get_key(cfg, key), float) and re.fullmatch(r"[-+]?[0-9]+", str(value)):
        value = float(value)  # yacs accepts no int for a float
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
