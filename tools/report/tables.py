"""Arrange summaries in tables: one per protocol and set of deviations, with published rows listed separately."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tools.report.text.numbers import write_difference, write_mean, write_value
from tools.report.text.protocol_names import title_of
from tools.report.text.wording import say_units
from transfer.results.comparison import Verdict, find_best
from transfer.results.published import PublishedRow, published_rows
from transfer.results.summaries import Summary


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One number of a table."""

    text: str
    """The mean with its 95 % interval, as in `57.32 (57.10 to 57.54)`, or `57.3` for a single unit of replication."""
    value: float | None
    """The mean, for sorting."""
    bold: bool = False
    """Better than every other row of its column."""

    @property
    def parts(self) -> tuple[str, str]:
        """The mean, and its interval without parentheses ("" if there is none)."""
        mean, _, interval = self.text.partition(" (")
        return mean, interval.removesuffix(")")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One method of a table."""

    backbone: str
    cells: Sequence[Cell]
    runs: int
    units: str
    """The units of replication, as in `3 pretrainings × 2 fine-tunings`."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """One published row of the same protocol."""

    backbone: str
    cells: Sequence[Cell]
    """The mean, with the standard deviation if the source gives it."""
    differences: Sequence[float | None]
    """Per metric, this row minus the table's chosen row, in percentage points."""
    trials: int
    note: str
    """How well the row is confirmed, and its source."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """The table of one protocol and one set of deviations."""

    protocol: str
    recipe: str
    title: str
    """The plain name, followed by the identifier."""
    deviations: Sequence[str]
    """The differences of its runs from the protocol."""
    metrics: Sequence[str]
    rows: Sequence[Row]
    published: Sequence[Published] = ()
    """Empty for runs that deviate from the protocol."""
    chosen: str = ""
    """The row that the published rows are compared with."""
    summaries: Sequence[Summary] = ()
    """The summaries in its rows."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """The content of the report that every output format is written from, besides the chain's files."""

    summaries: Sequence[Summary]
    verdict: Verdict
    tables: Sequence[Table]
    notes: Sequence[str] = ()
    """Sentences on files that could not be read."""


def build_tables(summaries: Sequence[Summary], verdict: Verdict, chosen: str = "") -> list[Table]:
    """Return one table per protocol and set of deviations, in the order of the chain.

    Args:
        summaries: of all runs.
        verdict: determines which cells are bold.
        chosen: the method that published rows are compared with; if empty or not in a table, its first row.

    """
    groups: dict[tuple[str, str], list[Summary]] = {}
    for row in summaries:
        groups.setdefault((row.protocol, row.recipe), []).append(row)
    return [_build_table(group, verdict, chosen) for group in groups.values()]


def _build_table(own: Sequence[Summary], verdict: Verdict, chosen: str) -> Table:
    protocol, deviations = own[0].protocol, own[0].deviations
    by_metric: dict[str, list[Summary]] = {}
    by_method: dict[str, dict[str, Summary]] = {}
    for summary in own:
        by_metric.setdefault(summary.metric, []).append(summary)
        by_method.setdefault(summary.backbone, {})[summary.metric] = summary
    best = {metric: find_best(rows, verdict) for metric, rows in by_metric.items()}
    chosen = chosen if chosen in by_method else next(iter(by_method))
    published = [] if deviations else published_rows(protocol)
    return Table(
        protocol=protocol,
        recipe=own[0].recipe,
        title=title_of(protocol, len(deviations)),
        deviations=[f"{entry['key']}: {entry['got']} (protocol: {entry['expected']})" for entry in deviations],
        metrics=list(by_metric),
        rows=[_build_row(method, mine, best) for method, mine in by_method.items()],
        published=[_build_published(row, list(by_metric), by_method[chosen]) for row in published],
        chosen=chosen,
        summaries=own,
    )


def _build_row(method: str, mine: Mapping[str, Summary], best: Mapping[str, str | None]) -> Row:
    cells = [_build_cell(mine.get(metric), bold=found == method) for metric, found in best.items()]
    widest = max(mine.values(), key=lambda summary: summary.n)
    return Row(backbone=method, cells=cells, runs=widest.n, units=say_units(widest.sample))


def _build_cell(summary: Summary | None, *, bold: bool) -> Cell:
    if summary is None:
        return Cell(text="–", value=None)
    return Cell(text=write_mean(summary.mean, summary.interval), value=summary.mean, bold=bold)


def _build_published(row: PublishedRow, metrics: Iterable[str], chosen: Mapping[str, Summary]) -> Published:
    cells, differences = [], []
    for metric in metrics:
        value, std = row.metrics.get(metric), row.stds.get(metric)
        text = write_value(value) + (f" ± {std:.1f}" if std else "")
        cells.append(Cell(text=text, value=value))
        differences.append(value - chosen[metric].mean if value is not None and metric in chosen else None)
    epochs = f", {row.epochs} epochs" if row.epochs else ""
    note = f"{row.label}: {row.source}"
    name = f"{row.backbone}{epochs}"
    return Published(backbone=name, cells=cells, differences=differences, trials=row.trials, note=note)


def write_published(cell: Cell, difference: float | None) -> str:
    """Return e.g. "57.0 ± 0.2 (Δ −0.32)"."""
    return cell.text if difference is None else f"{cell.text} (Δ {write_difference(difference)})"
