"""Check detection data: counts, layout, ids, boxes, images, leaks between train and test; every problem with a remedy.

  python -m tools.check_data data/digits
  python -m tools.check_data /data deep=true annotations=mine/train.json images=mine/train
  python -m tools.check_data /data config=mine.yaml

ROOT holds VOC2007 (trainval and test merged), VOC2012 and coco, or some of them. deep=true decodes every image instead
of a sample, and finds test images among those to train on by their bytes, whatever their names. annotations= and
images= name a further COCO-format set below ROOT; config= checks the sets that a detector's config names. Exit code 2
when there is a problem.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pretrain.runtime.command_line import run_command, split_arguments
from pretrain.runtime.settings import read_settings

if TYPE_CHECKING:
    from transfer.data_checks.voc_and_coco import DataReport

SHOWN = 50
"""Problems printed; the rest is counted."""


@dataclass(frozen=True, kw_only=True)
class CheckSettings:
    """What to check."""

    deep: bool = False
    """Decode every image."""
    annotations: str = ""
    """Annotation file of a further COCO-format set, below ROOT."""
    images: str = ""
    """Its image folder, below ROOT."""
    config: str = ""
    """A detector's config: check the sets that it trains and tests on."""


def main(arguments: Sequence[str]) -> int:
    """Print counts, notes and problems."""
    words, overrides = split_arguments(arguments, ["ROOT"])
    settings = read_settings(CheckSettings, None, overrides)
    report = examine(words[0], settings)
    for name, count in report.counts.items():
        print(f"{name}: {count} images")
    for note in report.notes:
        print(f"note: {note}")
    if report.problems:
        listed = "\n".join(map(str, report.problems[:SHOWN]))
        rest = len(report.problems) - SHOWN
        raise ValueError(f"{len(report.problems)} problems\n{listed}" + (f"\n… and {rest} more" if rest > 0 else ""))
    print("no problems found")
    return 0


def examine(root: str, settings: CheckSettings) -> "DataReport":
    """Return what was found."""
    # heavy (Detectron2): --help must come at once
    if settings.config:
        from transfer.detection.data.own_checks import check_config_data

        return check_config_data(settings.config, root, deep=settings.deep)
    from transfer.data_checks.voc_and_coco import check_data

    extra = [(settings.annotations, settings.images)] if settings.annotations else []
    return check_data(root, deep=settings.deep, extra=extra)


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
