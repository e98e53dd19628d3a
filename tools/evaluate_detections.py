"""Evaluate saved detections against VOC or COCO annotations, with the same metrics as a fine-tuning run.

  python -m tools.evaluate_detections coco/annotations/instances_val2017.json results.json
  python -m tools.evaluate_detections /data/VOC2007 runs/mochi/voc-c4/seed0
  python -m tools.evaluate_detections /data/VOC2007 runs/mochi/seed0 other=runs/moco_v2/seed0

GT is a COCO annotation file, or VOC's folder (with Annotations and ImageSets). DETECTIONS is a COCO results file, a
folder with one det file per class, or the folder of a finished run. Prints AP with its test-set uncertainty (95 %
bootstrap interval over images), AP per class and by size, kinds of errors (TIDE: AP50 points gained by correcting one
kind), and with other= the paired difference, second minus first.

Options: other=DETECTIONS task=auto|box|mask|both boxes=xywh|xyxy split=test year=2007 engine=hotcoco|pycocotools
draws=1000 json=PATH (all results, including the draws). Boxes given as corners are detected and refused; boxes=xyxy
converts them. Exit code 2 if the files do not fit together.
"""

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pretrain.runtime.command_line import run_command, split_arguments
from pretrain.runtime.settings import read_settings
from pretrain.runtime.storage import write_json

if TYPE_CHECKING:
    from transfer.metrics.bootstrap import Interval
    from transfer.metrics.saved_detections import DetectionReport

TASKS: dict[str, tuple[str, ...]] = {"auto": (), "box": ("bbox",), "mask": ("segm",), "both": ("bbox", "segm")}


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """Options of the command."""

    other: str = ""
    """Second detections, compared with the first on the same draws."""
    task: str = "auto"
    """COCO: auto (boxes, and masks if the results hold them), box, mask or both."""
    boxes: str = "xywh"
    """Form of the boxes in a results file: xywh (COCO's) or xyxy (corners)."""
    split: str = "test"
    """VOC's image set."""
    year: int = 2007
    """VOC's metric: 2007 (11 points) or 2012 (area)."""
    engine: str = "hotcoco"
    """hotcoco or pycocotools; both give the same numbers."""
    draws: int = 1000
    """Number of bootstrap draws over test images."""
    json: str = ""
    """JSON file to write all results to."""


def main(arguments: Sequence[str]) -> int:
    """Print the evaluation and, with other=, the comparison."""
    (truth, detections), overrides = split_arguments(arguments, ["GT", "DETECTIONS"])
    settings = read_settings(EvaluationSettings, None, overrides)
    _check(settings)
    first = _evaluate(Path(truth), Path(detections), settings)
    print("\n".join(describe_report(detections, first)))
    content = {"first": _as_json(first)}
    if settings.other:
        from transfer.metrics.bootstrap import paired_interval  # slow import; --help must be instant

        second = _evaluate(Path(truth), Path(settings.other), settings)
        pairs = {
            name: paired_interval(second.findings.draws[name], draws)
            for name, draws in first.findings.draws.items()
            if name in second.findings.draws
        }
        print("\n".join(["", *describe_report(settings.other, second), "", *describe_difference(pairs)]))
        content |= {"second": _as_json(second), "difference": {name: asdict(pair) for name, pair in pairs.items()}}
    if settings.json:
        write_json(settings.json, _finite(content))
    return 0


def describe_report(name: str, report: "DetectionReport") -> Iterator[str]:
    """Yield the lines that describe one evaluation."""
    from transfer.metrics.bootstrap import percentile_interval  # slow import; --help must be instant

    yield f"{name}: {report.detections} detections on {report.images} images"
    yield from (f"note: {note}" for note in report.notes)
    yield f"{'metric':<12} {'%':>7}  95 % interval over test images"
    for metric, value in report.metrics.items():
        draws = report.findings.draws.get(metric)
        interval = percentile_interval(draws) if draws is not None else None
        yield f"{metric:<12} {_number(value):>7}" + (f"  {interval.low:.2f} … {interval.high:.2f}" if interval else "")
    for task, sizes in report.findings.by_size.items():
        if f"{task}/APs" not in report.metrics:
            yield f"by size (COCO's AP of {task}es): " + ", ".join(f"{key} {_number(v)}" for key, v in sizes.items())
    for task, errors in report.findings.errors.items():
        lost = sorted(errors["ap50_lost"].items(), key=lambda item: -item[1])
        yield f"errors ({task}, AP50 points lost): " + ", ".join(f"{kind} {value:.2f}" for kind, value in lost)
    yield from _describe_classes(report.per_class)


def describe_difference(pairs: "dict[str, Interval]") -> Iterator[str]:
    """Yield the lines that describe a paired comparison."""
    yield f"{'second - first':<14} {'points':>7}  95 % interval over test images, paired"
    for name, pair in pairs.items():
        beyond = "" if pair.low <= 0 <= pair.high else "  (the interval excludes 0)"
        yield f"{name:<14} {pair.value:>+7.2f}  {pair.low:+.2f} … {pair.high:+.2f}{beyond}"


def _describe_classes(per_class: dict[str, dict[str, Any]]) -> Iterator[str]:
    tables = {} if "box" in per_class or "mask" in per_class else {"": {k: v["AP"] for k, v in per_class.items()}}
    for task, table in (tables or per_class).items():
        yield f"AP per class{f' ({task})' if task else ''}:"
        yield from (f"  {name:<20} {_number(value):>7}" for name, value in table.items())


def _evaluate(truth: Path, detections: Path, settings: EvaluationSettings) -> "DetectionReport":
    from transfer.metrics.saved_detections import (  # slow import; --help must be instant
        evaluate_saved_coco,
        evaluate_saved_voc,
        find_detections,
    )

    found = find_detections(detections)
    if truth.is_dir() != found.is_dir():
        raise ValueError(
            f"{truth} and {found} do not belong together: expected VOC's folder and a folder of det files, or a COCO "
            "annotation file and a results file"
        )
    if truth.is_dir():
        return evaluate_saved_voc(truth, settings.split, found, year=settings.year, draws=settings.draws)
    tasks: Any = TASKS[settings.task]
    engine: Any = settings.engine
    return evaluate_saved_coco(truth, found, tasks=tasks, box_form=settings.boxes, engine=engine, draws=settings.draws)


def _check(settings: EvaluationSettings) -> None:
    mistakes = [
        f"{key}: got {getattr(settings, key)!r}; expected one of {', '.join(map(str, allowed))}"
        for key, allowed in (
            ("task", tuple(TASKS)),
            ("boxes", ("xywh", "xyxy")),
            ("year", (2007, 2012)),
            ("engine", ("hotcoco", "pycocotools")),
        )
        if getattr(settings, key) not in allowed
    ]
    if settings.draws < 1:
        mistakes.append(f"draws: expected at least 1, got {settings.draws}")
    if mistakes:
        raise ValueError("\n".join(mistakes))


def _as_json(report: "DetectionReport") -> dict[str, Any]:
    draws = {
        name: {
            "identity": entry.identity,
            "images": entry.images,
            "value": entry.value,
            "values": entry.values.tolist(),
        }
        for name, entry in report.findings.draws.items()
    }
    return {
        "metrics": report.metrics,
        "per_class": report.per_class,
        **report.findings.details(),
        "images": report.images,
        "detections": report.detections,
        "notes": list(report.notes),
        "draws": draws,
    }


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
