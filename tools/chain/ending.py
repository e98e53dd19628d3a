"""What a local run ends with: the table of results and where everything lies."""

import csv
import io

from pretrain.runtime.storage import read_json, write_text
from tools.chain.memory import say_command
from tools.chain.plan.sweep import find_values, list_axes, list_points
from tools.chain.record.state import find_states, stage_folder
from tools.chain.submit import Chain, shorten


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
    """Return one line per protocol and metric, one column per backbone: mean ± std (n)."""
    folders = [stage_folder(chain.folder, stage.folder) for stage in chain.stages]
    results = [folder / "metrics.json" for folder in folders if (folder / "metrics.json").is_file()]
    if not results:
        return ""
    from transfer.results.run_result import read_results, summarise  # late: plan and status do not need it

    cells: dict[tuple[str, str], dict[str, str]] = {}
    for entry in summarise(read_results(results)):
        spread = f" ± {entry.std:.1f}" if entry.std is not None else ""
        cells.setdefault((entry.protocol, entry.metric), {})[entry.backbone] = f"{entry.mean:.1f}{spread}"
    backbones = list(dict.fromkeys(name for row in cells.values() for name in row))
    lines = [["protocol", "metric", *backbones]]
    lines += [[*key, *(row.get(name, "") for name in backbones)] for key, row in cells.items()]
    widths = [max(len(line[index]) for line in lines) for index in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


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
            values = find_values(points, stage.array or stage.name, result["backbone"])
            about = [
                *(values.get(axis, "") for axis in axes),
                *(result[key] for key in ("backbone", "protocol", "seed")),
            ]
            lines += [[*about, metric, value] for metric, value in result["metrics"].items()]
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(lines)
    return stream.getvalue()
