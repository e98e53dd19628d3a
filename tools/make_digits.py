"""Make the embedded data: handwritten digits in the layouts of ImageNet, VOC and COCO.

  python -m tools.make_digits data/digits
  python -m tools.make_digits data/digits seed=1 imagenet_train=20000 coco_train=2000

Real handwritten digits (scikit-learn's bundled set, nothing is downloaded) are painted bright, at random sizes and
places, on dark textured grounds; images of train and of test or val show different digits on different textures.
Written are OUT/imagenet/{train,val}/<digit>/*.JPEG, OUT/VOC2007, OUT/VOC2012 and OUT/coco, as Detectron2's loaders
expect them. The same settings give the same bytes. OUT/digits.json, written last, says that the set is whole and how it
was made.
"""

import shutil
import sys
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pretrain.runtime.command_line import run_command, split_arguments
from pretrain.runtime.settings import as_dict, read_settings
from pretrain.runtime.storage import TEMPORARY_PREFIX, read_json, write_json

if TYPE_CHECKING:
    import numpy as np

RECIPE = 2
"""Raised when the same settings come to give other images."""
CROWD_SHARE = 0.03
"""Share of COCO scenes with a crowd region."""
SET_NAMES = ("imagenet", "VOC2007", "VOC2012", "coco")


@dataclass(frozen=True, kw_only=True)
class DigitsConfig:
    """How many images of what size; the counts are those of the demo."""

    seed: int = 0
    """Of everything: which digits are for testing, textures, places, sizes."""
    imagenet_train: int = 4000
    """Images of one main digit for pretraining and linear classification."""
    imagenet_val: int = 1000
    """Images of one main digit, of digits that no train image shows."""
    imagenet_px: int = 112
    """Side of those images in pixels, at most 256."""
    voc2007_trainval: int = 250
    """Scenes to train a detector on; voc2012_trainval adds to them."""
    voc2007_test: int = 150
    """Scenes of digits that no other VOC list shows."""
    voc2012_trainval: int = 250
    """Scenes of the second VOC year."""
    coco_train: int = 400
    """Scenes with masks."""
    coco_val: int = 150
    """Scenes with masks, of digits that no train scene shows."""
    scene_min_px: int = 128
    """Shortest side of a scene in pixels."""
    scene_max_px: int = 160
    """Longest side of a scene in pixels, at most 256."""
    scene_max_digits: int = 6
    """Digits in a scene, at most; at least one."""
    digit_min_px: int = 24
    """Smallest side of a digit in a scene."""
    digit_max_px: int = 72
    """Largest side of a digit in a scene; at most that of the smallest scene."""


def main(arguments: Sequence[str]) -> int:
    """Write the data set, or say that it is there already."""
    words, overrides = split_arguments(arguments, ["OUT"])
    config = read_settings(DigitsConfig, None, overrides)
    check_config(config)
    out = Path(words[0])
    recipe = {"recipe": RECIPE, **as_dict(config)}
    note = out / "digits.json"
    if note.exists():
        found = read_json(note)
        if found != recipe:
            raise ValueError(
                f"{out}: holds digits made with other settings ({found}); remove it or name another folder"
            )
        print(f"{out}: the digits are there already")
        return 0
    partial = out / f"{TEMPORARY_PREFIX}digits"
    shutil.rmtree(partial, ignore_errors=True)
    write_sets(partial, config)
    for name in SET_NAMES:
        shutil.rmtree(out / name, ignore_errors=True)
        (partial / name).replace(out / name)
    partial.rmdir()
    write_json(note, recipe)
    print(f"{out}: {config.imagenet_train} + {config.imagenet_val} single digits, VOC and COCO scenes written")
    return 0


def check_config(config: DigitsConfig) -> None:
    """Raise ValueError when a count or a size cannot be."""
    mistakes = [f"{key}={value} is negative" for key, value in as_dict(config).items() if value < 0]
    mistakes += [
        f"{key}={value}: expected 48 to 256 pixels"
        for key, value in as_dict(config).items()
        if key in ("imagenet_px", "scene_min_px", "scene_max_px") and not 48 <= value <= 256
    ]
    if not 8 <= config.digit_min_px <= config.digit_max_px <= config.scene_min_px:
        mistakes.append(
            f"digit_min_px={config.digit_min_px}, digit_max_px={config.digit_max_px}: expected at least 8, in this "
            f"order, and at most scene_min_px={config.scene_min_px}"
        )
    if config.scene_max_digits < 1:
        mistakes.append(f"scene_max_digits={config.scene_max_digits}: expected at least 1")
    if config.scene_min_px > config.scene_max_px:
        mistakes.append(f"scene_min_px={config.scene_min_px} is above scene_max_px={config.scene_max_px}")
    if mistakes:
        raise ValueError("; ".join(mistakes))


def write_sets(root: Path, config: DigitsConfig) -> None:
    """Write the four sets under `root`."""
    # heavy (NumPy, OpenCV, scikit-learn): --help and a finished set must answer at once
    from tools.digits.layouts import write_classes, write_coco, write_voc
    from tools.digits.scenes import SceneStyle, load_pools

    def make_rng(split: str, index: int) -> "np.random.Generator":
        import numpy as np  # heavy: as above

        return np.random.default_rng([config.seed, 2, zlib.crc32(split.encode()), index])

    pools = load_pools(config.seed)
    train, test = pools["train"], pools["test"]
    style = SceneStyle(
        side_px=(config.scene_min_px, config.scene_max_px),
        digits=(1, config.scene_max_digits),
        digit_px=(config.digit_min_px, config.digit_max_px),
    )
    crowded = replace(style, crowd_share=CROWD_SHARE)
    write_classes(root / "imagenet" / "train", train, config.imagenet_train, config.imagenet_px, make_rng)
    write_classes(root / "imagenet" / "val", test, config.imagenet_val, config.imagenet_px, make_rng)
    both = [("trainval", train, config.voc2007_trainval), ("test", test, config.voc2007_test)]
    write_voc(root / "VOC2007", both, style, make_rng)
    write_voc(root / "VOC2012", [("trainval", train, config.voc2012_trainval)], style, make_rng)
    write_coco(root / "coco", "train", train, (config.coco_train, crowded), make_rng)
    write_coco(root / "coco", "val", test, (config.coco_val, crowded), make_rng)


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
