"""Check the data sets of a detector config: mistakes that stop a run, and damaged images."""

from pathlib import Path
from typing import Any

from transfer.data_checks.problems import Problem, check_image, choose_sample
from transfer.data_checks.voc_and_coco import DataReport, check_data
from transfer.detection.config import read_detector_config
from transfer.detection.data.own_sets import find_voc_mistakes, read_images, settle_own_data

REMEDY = "correct the annotations or the config; see transfer/detection/data/own_data.py for the format"


def check_config_data(config: str | Path, root: str | Path, *, deep: bool = False) -> DataReport:
    """Return counts, notes and problems of the training and test sets of `config`, below `root`.

    Args:
        config: path of a detector config, which may declare data_sets.
        root: of the data sets; empty: DATASETS.ROOT of the config.
        deep: decode every image instead of a sample.

    """
    cfg = read_detector_config(config)
    cfg.DATASETS.ROOT = str(root) or cfg.DATASETS.ROOT
    cfg, place = settle_own_data(cfg), Path(cfg.DATASETS.ROOT)
    used = dict.fromkeys([*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST])
    coco = {name: (file, folder) for name, file, folder in cfg.DATASETS.COCO_FORMAT if name in used}
    report = check_data(place, deep=deep, extra=coco.values()) if coco else DataReport(counts={}, notes=(), problems=())
    problems, counts = list(report.problems), dict(report.counts)
    for name in (entry[0] for entry in cfg.DATASETS.VOC_FORMAT if entry[0] in used):
        problems += [
            Problem(where=str(config), what=text, remedy=REMEDY) for text in find_voc_mistakes(cfg, name, place)
        ]
        counts[name], seen = _check_voc_images(cfg, name, place, deep)
        problems += seen
    return DataReport(counts=counts, notes=report.notes, problems=tuple(problems))


def _check_voc_images(cfg: Any, name: str, root: Path, deep: bool) -> tuple[int, list[Problem]]:
    folder, split = next(entry[1:3] for entry in cfg.DATASETS.VOC_FORMAT if entry[0] == name)
    images = {image.name: image for image in read_images(root / folder, split)}
    sample = [images[key] for key in choose_sample(list(images), deep)]
    return len(images), [
        problem
        for image in sample
        if image.file.is_file()
        for problem in check_image(image.file, (image.width, image.height))
    ]
