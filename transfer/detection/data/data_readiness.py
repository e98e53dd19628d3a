"""Read training and test sets with the run's own loader and evaluator before its first step.

Errors in the test set are thus reported at the start of a run instead of after training.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog

from pretrain.runtime import distributed
from transfer.data_checks.problems import check_image, choose_sample
from transfer.detection.evaluators import build_evaluator


def check_data_sets(cfg: Any, out: Path) -> None:
    """Raise ValueError on all ranks with every mistake in the registered sets of `cfg`; all ranks call it.

    The main rank reads the annotations, builds the evaluators, checks that every image exists and decodes a sample.
    """
    distributed.on_main(lambda: _refuse_obstacles(cfg, out))


def _refuse_obstacles(cfg: Any, out: Path) -> None:
    if obstacles := list(find_obstacles(cfg, out)):
        raise ValueError("\n".join(obstacles))


def find_obstacles(cfg: Any, out: Path) -> Iterator[str]:
    """Yield one sentence per mistake that would stop training or evaluation."""
    for name in dict.fromkeys([*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]):
        try:
            load = DatasetCatalog[name]
            entries = load.peek() if hasattr(load, "peek") else load()
            yield from check_images(name, entries)
            if name in cfg.DATASETS.TRAIN and not any(entry["annotations"] for entry in entries):
                yield f"{name}: none of its {len(entries)} images has an annotation to train on"
            if name in cfg.DATASETS.TEST:
                build_evaluator(cfg, name, out)
        except (ValueError, OSError) as error:
            yield f"{name}: {error}"


def check_images(name: str, entries: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yield mistakes in the images: missing files, and images of a sample that do not match their annotation."""
    listed: dict[str, set[str]] = {}
    lost = [entry["file_name"] for entry in entries if not _is_there(entry["file_name"], listed)]
    if lost:
        more = f" and {len(lost) - 3} more" if len(lost) > 3 else ""
        yield f"{name}: {len(lost)} of {len(entries)} images are missing: {', '.join(lost[:3])}{more}"
    missing = set(lost)
    for index in choose_sample(list(range(len(entries))), False):
        entry = entries[index]
        if entry["file_name"] not in missing:
            yield from map(str, check_image(Path(entry["file_name"]), (entry["width"], entry["height"])))


def _is_there(path: str, listed: dict[str, set[str]]) -> bool:
    """Return whether a file exists; each folder is listed once, which is faster on network file systems."""
    folder, name = os.path.split(path)
    if folder not in listed:
        listed[folder] = {entry.name for entry in Path(folder).iterdir()} if Path(folder).is_dir() else set()
    return name in listed[folder]
