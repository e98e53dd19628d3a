r"""Draw the detections of several finished runs beside the ground truth, on the same images.

  python -m tools.draw_gallery configs/transfer/coco_c4_digits.yaml gallery.png mochi=runs/mochi random=runs/random \
      data=data/digits

The images are from the first test set of CONFIG. Each NAME=FOLDER adds a column: the out= folder of a run of
tools.finetune_detector. Options: data= root of the data sets, images=6 (rows), threshold=0.5 (lowest score drawn),
width=360 (pixels of a column).
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from pretrain.runtime.command_line import UsageError, run_command, split_arguments
from pretrain.runtime.settings import read_settings


@dataclass(frozen=True, kw_only=True)
class GallerySettings:
    """Options of the gallery."""

    data: str = ""
    """Root of the data sets; empty: DATASETS.ROOT of the config."""
    images: int = 6
    """Number of rows, one image each."""
    threshold: float = 0.5
    """Lowest score of a drawn detection."""
    width: int = 360
    """Width of a column, in pixels."""


def main(arguments: Sequence[str]) -> int:
    """Write the PNG and print its path."""
    words, overrides = split_arguments(arguments, ["CONFIG", "OUT.png"])
    known = {field.name for field in fields(GallerySettings)}
    settings = read_settings(GallerySettings, None, [word for word in overrides if word.split("=")[0] in known])
    runs = {name: folder for name, _, folder in (word.partition("=") for word in overrides) if name not in known}
    if not runs:
        raise UsageError("at least one NAME=FOLDER of a finished run is required. Add --help for an example.")
    from transfer.detection.config import read_detector_config
    from transfer.detection.data.datasets import register_datasets  # heavy: keep --help fast
    from transfer.detection.gallery import draw_gallery

    cfg = read_detector_config(words[0], [])
    cfg.DATASETS.ROOT = settings.data or cfg.DATASETS.ROOT
    register_datasets(cfg)
    path = draw_gallery(
        words[1],
        cfg.DATASETS.TEST[0],
        {name: Path(folder) for name, folder in runs.items()},
        images=settings.images,
        threshold=settings.threshold,
        width=settings.width,
    )
    print(f"{path}: ground truth and {', '.join(runs)}")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
