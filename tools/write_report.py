"""Write the report of a chain: a self-contained page, and its tables as Markdown, JSON, CSV and LaTeX.

  python -m tools.write_report CHAIN_FOLDER [out=FOLDER] [compare=[[A,B],…]] [baseline=B] [controls.floor=A]
                               [controls.ceiling=B] [delta=POINTS] [rows=[NAME,…]] [beside=NAME]

Reports the stages in CHAIN_FOLDER that are finished so far; run it at any time. Writes index.html, report.md,
summary.json, results.csv, tables.tex and pictures/ into out (default: CHAIN_FOLDER/report). compare, baseline, controls
and delta override the chain file; rows selects the rows of tables.tex, and beside the backbone that published rows are
compared with. docs/summary.md describes summary.json.

Example: python -m tools.write_report runs/digits compare=[[mochi,moco_v2]]
"""

import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pretrain.runtime.command_line import run_command, split_arguments
from pretrain.runtime.machine import describe_machine, read_commit
from pretrain.runtime.settings import read_settings
from pretrain.runtime.storage import write_json, write_text
from transfer.results.question import Controls

if TYPE_CHECKING:
    from tools.report.gather import ChainFiles
    from tools.report.tables import Report

LONGEST_NAME = 200
"""Maximum characters of a picture's file name; file systems allow 255 bytes."""


@dataclass(frozen=True, kw_only=True)
class ReportSettings:
    """Where to write the report, and the question it answers."""

    out: str = ""
    """Output folder; empty: CHAIN_FOLDER/report."""
    compare: tuple[list[str], ...] = ()
    """Pairs of backbones to compare, [[mochi, moco_v2], …]; empty: as in the chain file."""
    baseline: str = ""
    """The backbone that all others are compared with; empty: as in the chain file."""
    controls: Controls = field(default_factory=Controls)
    """The backbones expected to be worst (floor) and best (ceiling); empty: as in the chain file."""
    delta: float | None = None
    """Percentage points within which two backbones count as equivalent; empty: as in the chain file."""
    rows: tuple[str, ...] = ()
    """Names of the backbones and published rows in tables.tex; empty: all."""
    beside: str = ""
    """The backbone that published rows are compared with; empty: the baseline or the first of each table."""


def main(arguments: Sequence[str]) -> int:
    """Write the report; print report.md and the paths of the other files."""
    (folder,), overrides = split_arguments(arguments, ["CHAIN_FOLDER"])
    settings = read_settings(ReportSettings, None, overrides)
    out = Path(settings.out or Path(folder) / "report")
    from tools.report.exports import to_csv, to_latex, write_markdown  # heavy: imports torch through the results
    from tools.report.gather import digest_inputs, gather
    from tools.report.page import write_page
    from tools.report.summary_file import describe_report
    from tools.report.text.escaping import make_storable

    files = gather(folder)
    report = answer(files, settings)
    provenance = {"machine": describe_machine(), "commit": read_commit(), "inputs": digest_inputs(files)}
    summary = describe_report(report.summaries, report.verdict) | provenance
    write_json(out / "summary.json", make_storable(summary))
    write_text(out / "results.csv", to_csv(report.summaries))
    write_text(out / "tables.tex", "\n".join(to_latex(table, settings.rows) for table in report.tables))
    text = write_markdown(files, report)
    write_text(out / "report.md", text)
    write_text(out / "index.html", write_page(files, report))
    copy_pictures(files, out / "pictures")
    print(text)
    print(f"Page: {out / 'index.html'}\nNumbers: {out / 'summary.json'}, {out / 'results.csv'}, {out / 'tables.tex'}")
    return 0


def answer(files: "ChainFiles", settings: ReportSettings) -> "Report":
    """Return summaries, verdict and tables of a chain.

    Raises:
        SettingsError: `settings` names an unknown backbone, or another mistake of the question.

    """
    from tools.report.asked import find_costs, make_draws_reader, read_question  # heavy, as in main
    from tools.report.tables import Report, build_tables
    from transfer.results.comparison import reach_verdict
    from transfer.results.summaries import summarise

    keys = ("compare", "baseline", "controls", "delta")
    question = read_question(files, {key: getattr(settings, key) for key in keys})
    summaries = summarise(files.results)
    notes: list[str] = []
    verdict = reach_verdict(summaries, question, make_draws_reader(files, notes), find_costs(files))
    tables = build_tables(summaries, verdict, settings.beside or question.baseline)
    return Report(summaries=summaries, verdict=verdict, tables=tables, notes=notes)


def copy_pictures(files: "ChainFiles", folder: Path) -> None:
    """Copy the images with drawn detections and the figures into `folder`, named by their content."""
    folder.mkdir(parents=True, exist_ok=True)
    for title, pictures in files.detections.items():
        for backbone, path in pictures.items():
            name = f"{title.replace(': ', '-')}-{backbone}".replace(" ", "_")
            shutil.copyfile(path, folder / f"{_plain(name)}{path.suffix}")
    for picture in files.figures:
        shutil.copyfile(picture.path, folder / picture.path.name)


def _plain(name: str) -> str:
    """Return a file name without separators or control characters, of at most LONGEST_NAME characters."""
    return re.sub(r"[^\w.@+()-]", "-", name).lstrip(".")[:LONGEST_NAME]


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
