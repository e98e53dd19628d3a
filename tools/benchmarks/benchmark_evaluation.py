"""Time our evaluators against Detectron2 and pycocotools in one run, and check that the results are bit-identical.

  python -m tools.benchmark_evaluation json=/tmp/evaluation.json

Rows: voc (process + evaluate of both evaluators, annotations read before), coco_bbox and coco_segm (evaluate +
accumulate + summarize, data loaded before), mask_encode (raw masks to RLE). A row contains the speed-up (median over
rounds of reference time / our time; low and high are minimum and maximum), whether all results were equal, and its
target. The references of voc and coco_bbox take a minute or more per round: once they have taken `budget` seconds, the
remaining rounds time ours only, against the reference's median (`reference_rounds`: how often the reference ran).
Options: rounds=3 budget=60 seed=0 voc_images=4952 coco_images=5000 segm_images=300 mask_images=40 threads=1 json=PATH.
With fewer images the ratios are not meaningful. Exit code 2 if results differ. Takes 5 to 8 minutes on 2 cores.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pretrain.runtime.command_line import run_command, split_arguments
from pretrain.runtime.settings import read_settings
from pretrain.runtime.storage import write_json

TARGETS = {"voc": 70.0, "coco_bbox": 80.0, "mask_encode": 3.0}
"""Minimum speed-up over the reference."""


@dataclass(frozen=True, kw_only=True)
class BenchmarkSettings:
    """Rounds, sizes and output of the benchmark."""

    rounds: int = 3
    """Interleaved measurements of the reference and ours."""
    budget: float = 60.0
    """Seconds after which a row's reference is not run again; it runs at least once."""
    seed: int = 0
    voc_images: int = 4952
    """VOC 2007 test."""
    coco_images: int = 5000
    """COCO val2017, boxes."""
    segm_images: int = 300
    """COCO-like images with 100 RLE masks each."""
    mask_images: int = 40
    """Images with 100 raw masks each to paste and encode."""
    threads: int = 1
    """torch's threads; with more, the reference's pasting slows down, which would inflate our speed-up."""
    json: str = ""
    """JSON file to write; empty: print only."""


def main(arguments: Sequence[str]) -> int:
    """Run all rows; print and write them; return 2 if results differ, else 0."""
    _, overrides = split_arguments(arguments, [])
    settings = read_settings(BenchmarkSettings, None, overrides)
    import torch  # heavy, as are the rows' imports

    from pretrain.runtime.machine import describe_machine, read_commit
    from tools.benchmarks.evaluation_rows import ROWS

    torch.set_num_threads(settings.threads)
    rows = {}
    for name, prepare in ROWS.items():
        with tempfile.TemporaryDirectory() as folder:
            rows[name] = measure(name, prepare(settings, Path(folder)), settings.rounds, settings.budget)
        print(describe_row(name, rows[name]), flush=True)
    table = {"rows": rows, "machine": describe_machine(), "commit": read_commit(), "settings": vars(settings)}
    if settings.json:
        write_json(settings.json, table)
    return 0 if all(row["equal"] for row in rows.values()) else 2


def measure(name: str, row: tuple[Any, Any, Any], rounds: int, budget: float) -> dict[str, Any]:
    """Return a row from `rounds` interleaved measurements; the results of every round are compared.

    Args:
        name: of the row, to find its target.
        row: functions that run the reference, run ours, and compare their results.
        rounds: runs of ours, and of the reference within the budget.
        budget: seconds after which the reference is not run again.

    """
    reference, ours, equal = row
    expected: Any = None
    slow: list[float] = []
    fast: list[float] = []
    ratios, agreed = [], True
    for _ in range(rounds):
        if sum(slow) <= budget:
            expected, seconds = _time(reference)
            slow.append(seconds)
        got, seconds = _time(ours)
        fast.append(seconds)
        agreed = agreed and equal(expected, got)
        ratios.append((slow[-1] if len(slow) == len(fast) else statistics.median(slow)) / seconds)
    return {
        "speedup": round(statistics.median(ratios), 2),
        "low": round(min(ratios), 2),
        "high": round(max(ratios), 2),
        "rounds": rounds,
        "reference_rounds": len(slow),
        "equal": agreed,
        "target": TARGETS.get(name),
        "reference_seconds": round(statistics.median(slow), 3),
        "seconds": round(statistics.median(fast), 4),
    }


def describe_row(name: str, row: dict[str, Any]) -> str:
    """Return a row as one line of text."""
    rounds = f"{row['rounds']} rounds, {row['reference_rounds']} of the reference"
    target = "" if row["target"] is None else f", target {row['target']:g}x"
    return (
        f"{name:12} {row['speedup']:7.1f}x ({row['low']:.1f} to {row['high']:.1f}; {rounds}{target}), "
        f"{row['reference_seconds']:.2f} s -> {row['seconds']:.3f} s, {'equal' if row['equal'] else 'NOT EQUAL'}"
    )


def _time(run: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    result = run()
    return result, time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
