"""Check detection data: counts, layout, ids, boxes, images, leaks between train and test; every problem with a remedy.

  python -m tools.check_data data/digits
  python -m tools.check_data /data deep=true annotations=mine/train.json images=mine/train

ROOT holds VOC2007 (trainval and test merged), VOC2012 and coco, or some of them. deep=true decodes every image instead
of a sample, and finds test images among those to train on by their bytes, whatever their names. annotations= and
images= name a further COCO-format set below ROOT. Exit code 2 when there is a problem.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from pretrain.runtime.command_line import run_command, split_arguments
from pretrain.runtime.settings import read_settings

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


def main(arguments: Sequence[str]) -> int:
    """Print counts, notes and problems."""
    words, overrides = split_arguments(arguments, ["ROOT"])
    settings = read_settings(CheckSettings, None, overrides)
    from transfer.data_checks.voc_and_coco import check_data  # heavy: --help must come at once

    extra = [(settings.annotations, settings.images)] if settings.annotations else []
    report = check_data(words[0], deep=settings.deep, extra=extra)
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


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
