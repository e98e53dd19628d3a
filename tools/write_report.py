"""Write the report of a chain: a self-contained page, and its tables as Markdown, JSON, CSV and LaTeX.

  python -m tools.write_report CHAIN_FOLDER [out=FOLDER]

Reads what the stages in CHAIN_FOLDER have finished so far (it may be run at any time) and writes into out
(default CHAIN_FOLDER/report): index.html, report.md, summary.json, results.csv, tables.tex and pictures/.

Example: python -m tools.write_report runs/digits
"""

import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pretrain.runtime.command_line import run_command, split_arguments
from pretrain.runtime.machine import describe_machine, read_commit
from pretrain.runtime.settings import read_settings
from pretrain.runtime.storage import write_json, write_text

if TYPE_CHECKING:
    from tools.report.gather import ChainFiles
    from tools.report.tables import Table


@dataclass(frozen=True, kw_only=True)
class ReportSettings:
    """Where the report goes."""

    out: str = ""
    """Folder of the report; empty: CHAIN_FOLDER/report."""


def main(arguments: Sequence[str]) -> int:
    """Write every file of the report; print the verdict, the tables and the paths."""
    (folder,), overrides = split_arguments(arguments, ["CHAIN_FOLDER"])
    out = Path(read_settings(ReportSettings, None, overrides).out or Path(folder) / "report")
    from tools.report.gather import digest_inputs, gather  # heavy: imports torch through the results
    from tools.report.page import write_page
    from tools.report.tables import build_tables, to_csv, to_latex, to_rows
    from tools.report.verdict import write_headline, write_verdict
    from transfer.results.run_result import summarise

    files = gather(folder)
    summaries = summarise(files.results)
    tables, verdict = build_tables(summaries), write_verdict(summaries)
    headline = write_headline(summaries)
    write_json(
        out / "summary.json",
        {
            "rows": to_rows(summaries),
            "headline": headline,
            "verdict": verdict,
            "machine": describe_machine(),
            "commit": read_commit(),
            "inputs": digest_inputs(files),
        },
    )
    write_text(out / "results.csv", to_csv(summaries))
    write_text(out / "tables.tex", "\n".join(map(to_latex, tables)))
    text = write_markdown(files, tables, [f"**{headline}**", *verdict])
    write_text(out / "report.md", text)
    write_text(out / "index.html", write_page(files, tables, [headline, *verdict]))
    copy_pictures(files, out / "pictures")
    print(text)
    print(f"Page: {out / 'index.html'}\nNumbers: {out / 'summary.json'}, {out / 'results.csv'}, {out / 'tables.tex'}")
    return 0


def write_markdown(files: "ChainFiles", tables: "Sequence[Table]", verdict: Sequence[str]) -> str:
    """Return report.md: the verdict and one table per protocol."""
    from tools.report.tables import to_markdown  # as in main

    parts = [f"# {files.name}\n", *(f"{sentence}\n" for sentence in verdict)]
    parts.extend(f"## {table.protocol}\n\n{to_markdown(table)}" for table in tables)
    missing = [f"{stage.name} ({stage.state})" for stage in files.stages if stage.state not in ("done", "running")]
    if missing:
        parts.append(f"Without a result: {', '.join(missing)}.\n")
    return "\n".join(parts)


def copy_pictures(files: "ChainFiles", folder: Path) -> None:
    """Copy the drawn detections and the figures beside the report, under names that say what they are."""
    folder.mkdir(parents=True, exist_ok=True)
    for title, pictures in files.detections.items():
        for backbone, path in pictures.items():
            name = f"{title.replace(': ', '-')}-{backbone}".replace("/", "-").replace(" ", "_")
            shutil.copyfile(path, folder / f"{name}{path.suffix}")
    for picture in files.figures:
        shutil.copyfile(picture.path, folder / picture.path.name)


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
