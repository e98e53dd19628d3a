"""Read training and test sets by the loader and evaluator that the run uses, before its first step.

What would stop a run at its end, when the test set is first read, stops it at its start.
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
    """Raise ValueError, on every rank, with all that is wrong with the registered sets of `cfg`; all ranks call it.

    The main process reads the annotations, builds the evaluators, looks for every image and decodes a sample.
    """
    distributed.on_main(lambda: _refuse_obstacles(cfg, out))


def _refuse_obstacles(cfg: Any, out: Path) -> None:
    if obstacles := list(find_obstacles(cfg, out)):
        raise ValueError("\n".join(obstacles))


def find_obstacles(cfg: Any, out: Path) -> Iterator[str]:
    """Yield a sentence for each thing that would stop training or evaluation."""
    for name in dict.fromkeys([*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]):
        try:
            load = DatasetCatalog[name]
            entries = load.peek() if hasattr(load, "peek") else load()
            yield from check_images(name, entries)
            if name in cfg.DATASETS.TRAIN and not any(entry["annotations"] for entry in entries):
                yield f"{name}: none of its {len(entries)} images has an annotation to learn from"
            if name in cfg.DATASETS.TEST:
                build_evaluator(cfg, name, out)
        except (ValueError, OSError) as error:
            yield f"{name}: {error}"


def check_images(name: str, entries: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yield what is wrong with the images: a file is missing, or one of a sample is not as the annotation says."""
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
    """Return whether a file exists; each folder is read once, which on a network file system is far cheaper."""
    folder, name = os.path.split(path)
    if folder not in listed:
        listed[folder] = {entry.name for entry in Path(folder).iterdir()} if Path(folder).is_dir() else set()
    return name in listed[folder]
