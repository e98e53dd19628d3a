"""What a local run ends with: the table of results and where everything lies."""

import csv
import io
from typing import Any

from pretrain.runtime.storage import read_json, write_text
from tools.chain.memory import say_command
from tools.chain.plan.config import ChainConfig
from tools.chain.plan.sweep import find_values, list_axes, list_points
from tools.chain.record.state import find_states, stage_folder
from tools.chain.submit import Chain, shorten
from transfer.results.seeds import method_of


def print_ending(chain: Chain) -> None:
    """Print the results, what failed, and the paths of report, weights and drawn detections."""
    states = find_states(chain.folder, chain.stages)
    if sweep := write_sweep(chain):
        write_text(chain.folder / "report" / "sweep.csv", sweep)
    if table := write_results(chain):
        print(f"\n{table}")
    for stage in chain.stages:
        if states[stage.name] != "done":
            print(f"{stage.name}: {states[stage.name]}")
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
        print(f"try the failed stages again: {say_command(chain, 'resume')}")


def write_results(chain: Chain) -> str:
    """Return the control and the verdict in sentences, and one line per protocol and metric, a column per method."""
    folders = [stage_folder(chain.folder, stage.folder) for stage in chain.stages]
    if not any((folder / "metrics.json").is_file() for folder in folders):
        return ""
    from tools.report.asked import read_question  # late: plan and status do not need it
    from tools.report.gather import gather
    from tools.report.text.numbers import write_mean
    from tools.report.verdict import describe_control, write_headline, write_verdict
    from transfer.results.comparison import reach_verdict
    from transfer.results.summaries import summarise

    files = gather(chain.folder)
    summaries = summarise(files.results)
    verdict = reach_verdict(summaries, read_question(files, read_asked(chain.config)))
    cells: dict[tuple[str, str], dict[str, str]] = {}
    for entry in summaries:
        protocol = f"{entry.protocol} *" if entry.deviations else entry.protocol
        cells.setdefault((protocol, entry.metric), {})[entry.backbone] = write_mean(entry.mean, entry.interval)
    methods = list(dict.fromkeys(name for row in cells.values() for name in row))
    lines = [["protocol", "metric", *methods]]
    lines += [[*key, *(row.get(name, "") for name in methods)] for key, row in cells.items()]
    widths = [max(len(line[index]) for line in lines) for index in range(len(lines[0]))]
    table = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    note = "(mean and its 95 % interval, in percent; *: with deviations from the protocol)"
    sentences = [write_headline(summaries, verdict), *write_verdict(summaries, verdict)]
    return "\n".join([*table, note, "", describe_control(verdict.control), *sentences])


def read_asked(config: ChainConfig) -> dict[str, Any]:
    """Return the chain's question as the report's reader takes it."""
    return {key: getattr(config, key) for key in ("compare", "baseline", "controls", "delta")}


def write_sweep(chain: Chain) -> str:
    """Return a sweep's results as CSV, one line per metric, the grid's axes as columns; "" without a grid."""
    if not chain.config.grid:
        return ""
    points = {point.name: point.values for point in list_points(chain.config)}
    axes = list_axes(chain.config)
    lines = [[*axes, "backbone", "protocol", "seed", "metric", "value"]]
    for stage in chain.stages:
        path = stage_folder(chain.folder, stage.folder) / "metrics.json"
        if path.is_file():
            result = read_json(path)
            own = points.get(method_of(result["backbone"]), {})  # the pretraining seeds of a variant share its place
            values = {**own, **find_values(points, stage.array or stage.name, result["backbone"])}
            about = [
                *(values.get(axis, "") for axis in axes),
                *(result[key] for key in ("backbone", "protocol", "seed")),
            ]
            lines += [[*about, metric, value] for metric, value in result["metrics"].items()]
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(lines)
    return stream.getvalue()
