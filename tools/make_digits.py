"""Make the embedded data sets: handwritten digits in the layouts of ImageNet, VOC and COCO.

  python -m tools.make_digits data/digits
  python -m tools.make_digits data/digits seed=1 imagenet_train=20000 coco_train=2000

Paints real handwritten digits (bundled with scikit-learn; nothing is downloaded) at random sizes and positions, bright
on dark textured backgrounds. Train images share neither digits nor textures with test and val images. Writes
OUT/imagenet/{train,val}/<digit>/*.JPEG, OUT/VOC2007, OUT/VOC2012 and OUT/coco in the layouts that Detectron2 reads. The
same options give the same bytes. OUT/digits.json, written last, marks the set as complete and records its options.
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
"""Version of the images; incremented when the same options produce different images."""
CROWD_SHARE = 0.03
"""Fraction of COCO scenes with a crowd region."""
SET_NAMES = ("imagenet", "VOC2007", "VOC2012", "coco")


@dataclass(frozen=True, kw_only=True)
class DigitsConfig:
    """Numbers and sizes of images; the defaults are those of the demo."""

    seed: int = 0
    """Seed of everything: the split of the digits, textures, positions, sizes."""
    imagenet_train: int = 4000
    """Images of one digit for pretraining and linear classification."""
    imagenet_val: int = 1000
    """Images of one digit; no digit occurs in a train image."""
    imagenet_px: int = 112
    """Side of these images in pixels, 48 to 256."""
    voc2007_trainval: int = 250
    """Scenes for detector training, in addition to voc2012_trainval."""
    voc2007_test: int = 150
    """Test scenes; no digit occurs in a trainval scene."""
    voc2012_trainval: int = 250
    """Scenes of the second VOC year."""
    coco_train: int = 400
    """Training scenes with masks."""
    coco_val: int = 150
    """Validation scenes with masks; no digit occurs in a train scene."""
    scene_min_px: int = 128
    """Smallest side of a scene in pixels, at least 48."""
    scene_max_px: int = 160
    """Largest side of a scene in pixels, at most 256."""
    scene_max_digits: int = 6
    """Maximum digits in a scene, at least 1."""
    digit_min_px: int = 24
    """Smallest side of a digit in a scene in pixels, at least 8."""
    digit_max_px: int = 72
    """Largest side of a digit in a scene in pixels, at most scene_min_px."""


def main(arguments: Sequence[str]) -> int:
    """Write the data sets unless OUT/digits.json shows that they exist."""
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
                f"{out}: contains digits made with different options: {found}; remove it or choose another folder"
            )
        print(f"{out}: already contains these digits")
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
    """Raise ValueError that lists every count or size out of range."""
    mistakes = [f"{key}={value}: expected at least 0" for key, value in as_dict(config).items() if value < 0]
    mistakes += [
        f"{key}={value}: expected 48 to 256 pixels"
        for key, value in as_dict(config).items()
        if key in ("imagenet_px", "scene_min_px", "scene_max_px") and not 48 <= value <= 256
    ]
    if not 8 <= config.digit_min_px <= config.digit_max_px <= config.scene_min_px:
        mistakes.append(
            f"digit_min_px={config.digit_min_px}, digit_max_px={config.digit_max_px}: expected 8 <= "
            f"digit_min_px <= digit_max_px <= scene_min_px={config.scene_min_px}"
        )
    if config.scene_max_digits < 1:
        mistakes.append(f"scene_max_digits={config.scene_max_digits}: expected at least 1")
    if config.scene_min_px > config.scene_max_px:
        mistakes.append(f"scene_min_px={config.scene_min_px}: expected at most scene_max_px={config.scene_max_px}")
    if mistakes:
        raise ValueError("; ".join(mistakes))


def write_sets(root: Path, config: DigitsConfig) -> None:
    """Write the four data sets under `root`."""
    # heavy: NumPy, OpenCV, scikit-learn
    from tools.digits.layouts import write_classes, write_coco, write_voc
    from tools.digits.scenes import SceneStyle, load_pools

    def make_rng(split: str, index: int) -> "np.random.Generator":
        import numpy as np  # heavy

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
