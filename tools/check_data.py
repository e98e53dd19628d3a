"""Check detection data: counts, layout, ids, boxes, images, train/test leakage; print a remedy for every problem.

  python -m tools.check_data data/digits
  python -m tools.check_data /data deep=true annotations=mine/train.json images=mine/train
  python -m tools.check_data /data config=mine.yaml

ROOT holds any of VOC2007 (trainval and test merged), VOC2012 and coco. deep=true decodes every image instead of a
sample, and finds training images identical to test images, whatever their names. annotations= and images= give a
further COCO-format set, relative to ROOT; config= checks the sets named in a detector's config. Exit code 2 if there is
a problem.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pretrain.runtime.command_line import run_command, say_count, split_arguments
from pretrain.runtime.settings import read_settings

if TYPE_CHECKING:
    from transfer.data_checks.voc_and_coco import DataReport

SHOWN = 50
"""Number of problems printed; the others are only counted."""


@dataclass(frozen=True, kw_only=True)
class CheckSettings:
    """Options of the command."""

    deep: bool = False
    """Decode every image instead of a sample, and compare training with test images byte by byte."""
    annotations: str = ""
    """Annotation file of a further COCO-format set, relative to ROOT."""
    images: str = ""
    """Its image folder, relative to ROOT."""
    config: str = ""
    """Detector config whose training and test sets are checked."""


def main(arguments: Sequence[str]) -> int:
    """Print counts, notes and problems; ValueError if there are problems."""
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
        raise ValueError(
            f"{say_count(len(report.problems), 'problem')}\n{listed}" + (f"\n… and {rest} more" if rest > 0 else "")
        )
    print("no problems found")
    return 0


def examine(root: str, settings: CheckSettings) -> "DataReport":
    """Return the report on the data below `root`."""
    # Imported here because Detectron2 is slow to import, and --help must be instant.
    if settings.config:
        from transfer.detection.data.own_checks import check_config_data

        return check_config_data(settings.config, root, deep=settings.deep)
    from transfer.data_checks.voc_and_coco import check_data

    extra = [(settings.annotations, settings.images)] if settings.annotations else []
    return check_data(root, deep=settings.deep, extra=extra)


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
