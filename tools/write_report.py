"""Write the report of a chain: a self-contained page, and its tables as Markdown, JSON, CSV and LaTeX.

  python -m tools.write_report CHAIN_FOLDER [out=FOLDER] [compare=[[A,B],…]] [baseline=B] [controls.floor=A]
                               [controls.ceiling=B] [delta=POINTS] [rows=[NAME,…]] [beside=NAME]

Reads what the stages in CHAIN_FOLDER have finished so far (it may be run at any time) and writes into out
(default CHAIN_FOLDER/report): index.html, report.md, summary.json, results.csv, tables.tex and pictures/.
compare, baseline, controls and delta replace those of the chain file; rows chooses the rows of tables.tex, and beside
the backbone that published rows are set beside. docs/summary.md describes summary.json.

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
"""Characters of a picture's file name; file systems take 255 bytes."""


@dataclass(frozen=True, kw_only=True)
class ReportSettings:
    """Where the report goes and what it is asked."""

    out: str = ""
    """Folder of the report; empty: CHAIN_FOLDER/report."""
    compare: tuple[list[str], ...] = ()
    """Pairs of backbones, [[mochi, moco_v2], …]; empty: as the chain has it."""
    baseline: str = ""
    """The backbone that all others are compared with; empty: as the chain has it."""
    controls: Controls = field(default_factory=Controls)
    """The backbones between which the others must lie; empty: as the chain has it."""
    delta: float | None = None
    """Percent points within which two backbones count as equivalent; empty: as the chain has it."""
    rows: tuple[str, ...] = ()
    """Rows of tables.tex, backbones and published ones by name; empty: all."""
    beside: str = ""
    """The backbone that published rows are set beside; empty: the first of each table."""


def main(arguments: Sequence[str]) -> int:
    """Write every file of the report; print the verdict, the tables and the paths."""
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
    """Return the summaries, the verdict and the tables of a chain."""
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
    """Copy the drawn detections and the figures beside the report, under names that say what they are."""
    folder.mkdir(parents=True, exist_ok=True)
    for title, pictures in files.detections.items():
        for backbone, path in pictures.items():
            name = f"{title.replace(': ', '-')}-{backbone}".replace(" ", "_")
            shutil.copyfile(path, folder / f"{_plain(name)}{path.suffix}")
    for picture in files.figures:
        shutil.copyfile(picture.path, folder / picture.path.name)


def _plain(name: str) -> str:
    """Return a file name without separators or control characters, and not too long."""
    return re.sub(r"[^\w.@+()-]", "-", name).lstrip(".")[:LONGEST_NAME]


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
