"""Print what a finished local run produced: the table of results and the paths of its outputs."""

import csv
import io
import os
import subprocess
import sys
from typing import TYPE_CHECKING

from pretrain.runtime.storage import write_text
from tools.chain.memory import say_command
from tools.chain.plan.make_plan import Stage
from tools.chain.plan.question_words import question_words
from tools.chain.plan.sweep import find_values, list_axes, list_points
from tools.chain.record.state import find_reason, find_states, read_failed, stage_folder
from tools.chain.submit import Chain, shorten
from transfer.results.seeds import method_of

if TYPE_CHECKING:
    from transfer.results.run_result import RunResult


def print_ending(chain: Chain) -> None:
    """Print the results, the unfinished stages, and the paths of report, weights and drawn detections."""
    states = find_states(chain.folder, chain.stages)
    if sweep := write_sweep(chain):
        write_text(chain.folder / "report" / "sweep.csv", sweep)
    if table := write_results(chain):
        print(f"\n{table}")
    for stage in chain.stages:
        if states[stage.name] != "done":
            failed = read_failed(stage_folder(chain.folder, stage.folder)) if states[stage.name] == "failed" else None
            reason = f" ({failed['kind']}: {find_reason(failed)})" if failed else ""
            print(f"{stage.name}: {states[stage.name]}{reason}")
    folders = {stage.name: stage_folder(chain.folder, stage.folder) for stage in chain.stages}
    found = [("report", chain.folder / "report" / "index.html"), ("numbers", chain.folder / "report" / "summary.json")]
    found += [("sweep", chain.folder / "report" / "sweep.csv")]
    found += [("weights", folders[stage.name] / "backbone.pkl") for stage in chain.stages if stage.kind == "convert"]
    for stage in chain.stages:
        if stage.kind == "detector":
            pictures = sorted((folders[stage.name] / "detections").glob("*.png"))
            found += [("drawn", path) for path in pictures[:1]]
    for label, path in found:
        if path.exists():
            print(f"{label:8} {shorten(path)}")
    if any(states[stage.name] == "failed" for stage in chain.stages):
        print(f"to run the failed stages again:  {say_command(chain, 'resume')}")


def write_results(chain: Chain) -> str:
    """Return the verdict, the controls and the table of results, as printed by tools.report.closing."""
    words = [sys.executable, "-m", "tools.report.closing", str(chain.folder), *question_words(chain.config)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(words, check=False, env=environment, capture_output=True, text=True)
    return (done.stdout or done.stderr).rstrip()


def write_sweep(chain: Chain) -> str:
    """Return a sweep's results as CSV, one line per metric, the grid's axes as columns; "" without a grid."""
    if not chain.config.grid:
        return ""
    points = {point.name: point.values for point in list_points(chain.config)}
    axes = list_axes(chain.config)
    lines: list[list[object]] = [[*axes, "backbone", "protocol", "seed", "metric", "value"]]
    for stage, result in _read_results(chain):
        own = points.get(method_of(result.backbone), {})  # the pretraining seeds of a variant share its grid point
        values = own | find_values(points, stage.array or stage.name, result.backbone)
        about = [*(values.get(axis, "") for axis in axes), result.backbone, result.protocol, result.seed]
        lines += [[*about, metric, value] for metric, value in result.metrics.items()]
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(lines)
    return stream.getvalue()


def _read_results(chain: Chain) -> "list[tuple[Stage, RunResult]]":
    from tools.chain.record.sound_results import read_sound_result  # imported late: plan and status do not need it

    found = [(stage, read_sound_result(stage_folder(chain.folder, stage.folder), stage.kind)) for stage in chain.stages]
    return [(stage, result) for stage, result in found if result is not None]
