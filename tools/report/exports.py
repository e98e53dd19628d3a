"""Write tables and verdict as Markdown, LaTeX and CSV."""

import csv
import io
from collections.abc import Collection, Iterable, Sequence

from tools.report.gather import ChainFiles
from tools.report.tables import Cell, Report, Table, write_published
from tools.report.text.escaping import escape_csv, escape_latex, escape_markdown, escape_sentence
from tools.report.text.numbers import find_decimals, write_difference, write_p
from tools.report.text.protocol_names import title_of
from tools.report.text.wording import count_units, say_claim, say_outcome, say_remedy, say_test_set
from tools.report.verdict import describe_control, group_by_pair, write_headline, write_verdict
from transfer.results.comparison import Comparison
from transfer.results.summaries import Summary

COMPARISON_HEADS = (
    "protocol", "metric", "difference", "95 % interval", "adjusted p", "outcome", "applies to", "runs",
    "another test set", "needed to decide",
)  # fmt: skip


def describe_comparison(entry: Comparison) -> list[str]:
    """Return the cells of a comparison, in the order of COMPARISON_HEADS."""
    evidence = entry.evidence
    decimals = find_decimals([evidence.difference, evidence.low, evidence.high])
    low, high = (write_difference(value, decimals) for value in (evidence.low, evidence.high))
    remedy = {"undecided": say_remedy(entry), "too_few_runs": evidence.reason}.get(evidence.outcome, "–")
    return [
        title_of(entry.protocol, entry.deviations),
        entry.metric,
        write_difference(evidence.difference, decimals),
        "–" if evidence.low is None else f"{low} to {high}",
        write_p(evidence.p_adjusted),
        say_outcome(entry),
        say_claim(evidence),
        f"{count_units(evidence.first)} against {count_units(evidence.second)}",
        say_test_set(entry),
        remedy,
    ]


def to_markdown(table: Table) -> str:
    """Return a table in Markdown, followed by its published rows; bold: better than every other row."""
    heads = _escape_all(["backbone", *table.metrics, "runs"])
    rows = [heads]
    for row in table.rows:
        cells = [f"**{escape_markdown(cell.text)}**" if cell.bold else escape_markdown(cell.text) for cell in row.cells]
        rows.append([escape_markdown(row.backbone), *cells, escape_markdown(row.units)])
    text = _frame(rows)
    if table.deviations:
        text = f"Deviations: {escape_markdown('; '.join(table.deviations))}.\n\n{text}"
    if table.published:
        text += f"\nPublished rows. Δ: to {escape_markdown(table.chosen)}; ±: standard deviation in the source.\n\n"
        lines = [
            _escape_all([row.backbone, *map(write_published, row.cells, row.differences), str(row.trials), row.note])
            for row in table.published
        ]
        text += _frame([[*heads, "source"], *lines])
    return text


def comparisons_to_markdown(pair: Sequence[Comparison]) -> str:
    """Return the comparisons of one pair as a Markdown table."""
    return _frame([list(COMPARISON_HEADS), *(_escape_all(describe_comparison(entry)) for entry in pair)])


def to_latex(table: Table, rows: Collection[str] = ()) -> str:
    """Return the table as a LaTeX tabular (booktabs) with runs, sources and deviations.

    Args:
        table: of one protocol.
        rows: names of the methods and published rows to include; empty: all.

    """
    own = [
        [escape_latex(row.backbone), *map(_write_latex, row.cells), escape_latex(row.units), ""]
        for row in table.rows
        if not rows or row.backbone in rows
    ]
    published = [
        [escape_latex(row.backbone), *map(_write_latex, row.cells), str(row.trials), escape_latex(row.note)]
        for row in table.published
        if not rows or row.backbone in rows
    ]
    heads = ["backbone", *map(escape_latex, table.metrics), "runs", "source"]
    lines = [f"% {escape_latex(table.title)}", *(f"% deviation: {escape_latex(text)}" for text in table.deviations)]
    lines += [rf"\begin{{tabular}}{{l{'r' * len(table.metrics)}ll}}", r"\toprule", " & ".join(heads) + r" \\"]
    for group in (own, published):
        if group:
            lines += [r"\midrule", *(" & ".join(row) + r" \\" for row in group)]
    if table.deviations:
        width, text = len(heads), escape_latex("; ".join(table.deviations))
        lines += [r"\midrule", rf"\multicolumn{{{width}}}{{l}}{{Deviations: {text}}} \\"]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def to_csv(summaries: Sequence[Summary]) -> str:
    """Return one line per method, protocol and metric: mean, interval, standard deviation, and each run's value."""
    heads = ["backbone", "protocol", "metric", "mean", "low", "high", "std", "n", "values", "pretrainings", "seeds"]
    rows: list[list[object]] = [[*heads, "deviations"]]
    for row in summaries:
        low, high = row.interval or ("", "")
        deviations = "; ".join(
            f"{entry['key']}: {entry['got']} (protocol: {entry['expected']})" for entry in row.deviations
        )
        spread: list[object] = [row.mean, low, high, "" if row.std is None else row.std, row.n]
        values = [" ".join(map(str, group)) for group in (row.values, row.pretrainings, row.seeds)]
        rows.append([row.backbone, row.protocol, row.metric, *spread, *values, deviations])
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows([[escape_csv(cell) for cell in row] for row in rows])
    return stream.getvalue()


def _write_latex(cell: Cell) -> str:
    text = escape_latex(cell.text)
    return rf"\textbf{{{text}}}" if cell.bold else text


def _frame(rows: Sequence[Sequence[str]]) -> str:
    """Return escaped cells as a Markdown table; the first row is its head."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]) + "\n"


def _escape_all(cells: Iterable[str]) -> list[str]:
    return [escape_markdown(cell) for cell in cells]


def write_markdown(files: ChainFiles, report: Report) -> str:
    """Return report.md: the control, the verdict, a table per comparison and one per protocol."""
    summaries, verdict = report.summaries, report.verdict
    parts = [f"# {escape_markdown(files.name)}\n", f"{escape_sentence(describe_control(verdict.control))}\n"]
    parts.append(f"**{escape_sentence(write_headline(summaries, verdict))}**\n")
    parts += [f"{escape_sentence(sentence)}\n" for sentence in write_verdict(summaries, verdict)]
    for pair in group_by_pair(verdict):
        title = f"{escape_markdown(pair[0].first)} against {escape_markdown(pair[0].second)}"
        parts.append(f"## {title}\n\n{comparisons_to_markdown(pair)}")
    parts += [f"## {escape_markdown(table.title)}\n\n{to_markdown(table)}" for table in report.tables]
    missing = [f"{stage.name} ({stage.state})" for stage in files.stages if stage.state not in ("done", "running")]
    if missing:
        parts.append(f"Without a result: {escape_markdown(', '.join(missing))}.\n")
    parts += [f"{escape_sentence(note)}\n" for note in report.notes]
    return "\n".join(parts)
