"""Bring summaries to tables: one per protocol, as Markdown, CSV, LaTeX and JSON."""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from transfer.results.published import PublishedRow, published_rows
from transfer.results.run_result import Summary, compare, published_noise


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One number of a table."""

    text: str
    """ "31.2 ± 0.4", or "31.2" for a single run."""
    value: float | None
    """The mean, for sorting."""
    bold: bool = False
    """The best of its column, and above the second by more than the noise."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One backbone (or one published row) of a table."""

    backbone: str
    cells: Sequence[Cell]
    runs: int
    note: str = ""
    """Deviations from the protocol, or a published row's label and source."""
    published: bool = False


@dataclass(frozen=True, kw_only=True)
class Table:
    """One protocol's table: two protocols never share one."""

    protocol: str
    metrics: Sequence[str]
    rows: Sequence[Row]
    noise: Sequence[Cell]
    """Per metric, the largest noise band among the rows: a difference within it says nothing."""


def build_tables(summaries: Sequence[Summary]) -> list[Table]:
    """Return a table per protocol, in the order of the chain; published rows follow our own."""
    return [_build_table(protocol, summaries) for protocol in dict.fromkeys(row.protocol for row in summaries)]


def _build_table(protocol: str, summaries: Sequence[Summary]) -> Table:
    own = [row for row in summaries if row.protocol == protocol]
    metrics = list(dict.fromkeys(row.metric for row in own))
    rows = []
    for backbone, deviations in dict.fromkeys((row.backbone, _describe(row)) for row in own):
        mine = {row.metric: row for row in own if (row.backbone, _describe(row)) == (backbone, deviations)}
        cells = [_build_cell(mine.get(metric), own) for metric in metrics]
        rows.append(Row(backbone=backbone, cells=cells, runs=max(row.n for row in mine.values()), note=deviations))
    rows.extend(_published(row, metrics) for row in published_rows(protocol))
    noise = [_build_noise([row for row in own if row.metric == metric]) for metric in metrics]
    return Table(protocol=protocol, metrics=metrics, rows=rows, noise=noise)


def _build_noise(own: Sequence[Summary]) -> Cell:
    bands = [row.std for row in own if row.std is not None]
    published = published_noise(own[0].protocol, own[0].metric)
    bands += [] if published is None else [published]
    return Cell(text=f"± {max(bands):.1f}" if bands else "unknown", value=max(bands, default=None))


def _build_cell(summary: Summary | None, own: Iterable[Summary]) -> Cell:
    if summary is None:
        return Cell(text="–", value=None)
    rivals = [
        row
        for row in own
        if row.metric == summary.metric and row.deviations == summary.deviations and row.backbone != summary.backbone
    ]
    differences = [compare(summary, rival) for rival in rivals]
    bold = bool(differences) and all(entry.difference > 0 and entry.within is False for entry in differences)
    return Cell(text=_write_number(summary.mean, summary.std), value=summary.mean, bold=bold)


def _write_number(mean: float | None, std: float | None) -> str:
    if mean is None:
        return "–"
    return f"{mean:.1f}" if std is None else f"{mean:.1f} ± {std:.1f}"


def _published(row: PublishedRow, metrics: Sequence[str]) -> Row:
    cells = [
        Cell(text=_write_number(row.metrics.get(metric), row.stds.get(metric)), value=row.metrics.get(metric))
        for metric in metrics
    ]
    epochs = f", {row.epochs} epochs" if row.epochs else ""
    note = f"published, {row.label}: {row.source}"
    return Row(backbone=f"{row.backbone}{epochs}", cells=cells, runs=row.trials, note=note, published=True)


def _describe(summary: Summary) -> str:
    parts = [f"{entry['key']}: {entry['got']} (protocol: {entry['expected']})" for entry in summary.deviations]
    return "; ".join(parts)


def to_markdown(table: Table) -> str:
    """Return the table in Markdown; bold: best and beyond the noise."""
    head = ["backbone", *table.metrics, "runs", "note"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in table.rows:
        cells = [f"**{cell.text}**" if cell.bold else cell.text for cell in row.cells]
        lines.append("| " + " | ".join([row.backbone, *cells, str(row.runs), row.note.replace("|", "/")]) + " |")
    lines.append("| " + " | ".join(["*noise band*", *(cell.text for cell in table.noise), "", ""]) + " |")
    return "\n".join(lines) + "\n"


def to_latex(table: Table) -> str:
    """Return the table as a LaTeX tabular (booktabs); notes are left to the caption."""
    lines = [
        rf"% protocol: {table.protocol}",
        rf"\begin{{tabular}}{{l{'r' * len(table.metrics)}r}}",
        r"\toprule",
        " & ".join(["backbone", *map(_escape_latex, table.metrics), "runs"]) + r" \\",
        r"\midrule",
    ]
    for row in table.rows:
        texts = [cell.text.replace("±", r"$\pm$").replace("–", "--") for cell in row.cells]
        cells = [rf"\textbf{{{text}}}" if cell.bold else text for text, cell in zip(texts, row.cells, strict=True)]
        lines.append(" & ".join([_escape_latex(row.backbone), *cells, str(row.runs)]) + r" \\")
    noise = [cell.text.replace("±", r"$\pm$") for cell in table.noise]
    lines += [r"\midrule", " & ".join(["noise band", *noise, ""]) + r" \\"]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def to_csv(summaries: Sequence[Summary]) -> str:
    """Return one line per backbone, protocol and metric: mean, std, n and the single values."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["backbone", "protocol", "metric", "mean", "std", "n", "values", "seeds", "deviations"])
    for row in summaries:
        spread = "" if row.std is None else row.std
        values, seeds = " ".join(map(str, row.values)), " ".join(map(str, row.seeds))
        writer.writerow(
            [row.backbone, row.protocol, row.metric, row.mean, spread, row.n, values, seeds, _describe(row)]
        )
    return stream.getvalue()


def to_rows(summaries: Sequence[Summary]) -> list[dict[str, Any]]:
    """Return the rows of summary.json."""
    return [
        {
            "backbone": row.backbone,
            "protocol": row.protocol,
            "metric": row.metric,
            "mean": row.mean,
            "std": row.std,
            "n": row.n,
            "values": list(row.values),
            "seeds": list(row.seeds),
            "deviations": [dict(entry) for entry in row.deviations],
        }
        for row in summaries
    ]


def _escape_latex(text: str) -> str:
    for sign in "&%$#_{}":
        text = text.replace(sign, rf"\{sign}")
    return text
