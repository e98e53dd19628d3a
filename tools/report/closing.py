"""Print the results of a chain: a table, then the control and the verdict in sentences.

  python -m tools.report.closing CHAIN_FOLDER [compare=[[A,B],…]] [baseline=B] [controls.floor=A] [delta=POINTS]

Prints nothing if no stage has a result. The sentences are those of tools.write_report.
"""

import sys
from collections.abc import Sequence

from pretrain.runtime.command_line import run_command, split_arguments
from pretrain.runtime.settings import read_settings
from tools.report.asked import read_question
from tools.report.gather import gather
from tools.report.text.numbers import write_mean
from tools.report.verdict import describe_control, write_headline, write_verdict
from tools.write_report import ReportSettings
from transfer.results.comparison import Verdict, reach_verdict
from transfer.results.summaries import Summary, summarise

NOTE = "(mean and 95 % interval in percent; *: with deviations from the protocol)"


def main(arguments: Sequence[str]) -> int:
    """Print the results of the chain in CHAIN_FOLDER."""
    (folder,), overrides = split_arguments(arguments, ["CHAIN_FOLDER"])
    settings = read_settings(ReportSettings, None, overrides)
    files = gather(folder)
    summaries = summarise(files.results)
    if summaries:
        asked = {key: getattr(settings, key) for key in ("compare", "baseline", "controls", "delta")}
        print(write_closing(summaries, reach_verdict(summaries, read_question(files, asked))))
    return 0


def write_closing(summaries: Sequence[Summary], verdict: Verdict) -> str:
    """Return one line per protocol and metric with a column per method, then the control and the verdict."""
    cells: dict[tuple[str, str], dict[str, str]] = {}
    for entry in summaries:
        protocol = f"{entry.protocol} *" if entry.deviations else entry.protocol
        cells.setdefault((protocol, entry.metric), {})[entry.backbone] = write_mean(entry.mean, entry.interval)
    methods = list(dict.fromkeys(name for row in cells.values() for name in row))
    lines = [["protocol", "metric", *methods]]
    lines += [[*key, *(row.get(name, "") for name in methods)] for key, row in cells.items()]
    widths = [max(len(line[index]) for line in lines) for index in range(len(lines[0]))]
    table = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    sentences = [write_headline(summaries, verdict), *write_verdict(summaries, verdict)]
    return "\n".join([*table, NOTE, "", describe_control(verdict.control), *sentences])


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
