"""Details of a table that the page shows on demand: each run, and results by object size, class and kind of error."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tools.report.tables import Table
from tools.report.text.protocol_names import name_metric
from transfer.results.summaries import HEADLINE, Summary

MOST_COLUMNS = 12
"""Methods shown in a breakdown; further ones are omitted."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """The values of one run, in the order of the table's metrics; None for a metric it did not measure."""

    backbone: str
    """With its pretraining seed."""
    seed: int
    values: Sequence[float | None]


@dataclass(frozen=True, kw_only=True)
class Breakdown:
    """A headline metric by object size, class or kind of error."""

    title: str
    methods: Sequence[str]
    rows: Sequence[tuple[str, Sequence[float | None]]]
    """(size, class or kind, mean over the runs of each method)."""
    left_out: int
    """Methods beyond MOST_COLUMNS."""


def list_runs(table: Table) -> list[Run]:
    """Return the runs of a table, pretraining by pretraining."""
    found: dict[tuple[str, int], dict[str, float]] = {}
    for row in table.summaries:
        for backbone, seed, value in zip(row.pretrainings, row.seeds, row.values, strict=True):
            found.setdefault((backbone, seed), {})[row.metric] = value
    return [
        Run(backbone=backbone, seed=seed, values=[values.get(metric) for metric in table.metrics])
        for (backbone, seed), values in found.items()
    ]


def list_breakdowns(table: Table) -> list[Breakdown]:
    """Return the measured breakdowns of the headline metrics by object size, kind of error and class."""
    kinds: tuple[tuple[str, Callable[[Summary], Mapping[str, float]]], ...] = (
        ("by object size (%)", lambda row: row.by_size),
        ("points of AP50 lost by kind of error (TIDE)", lambda row: row.error_kinds),
        ("by class (%)", lambda row: row.per_class),
    )
    metrics = [metric for metric in table.metrics if metric in HEADLINE]
    rows = {metric: [row for row in table.summaries if row.metric == metric] for metric in metrics}
    found = [
        _break_down(f"{name_metric(metric)}, {title}", rows[metric], read)
        for title, read in kinds
        for metric in metrics
    ]
    return [entry for entry in found if entry.rows]


def _break_down(title: str, rows: Sequence[Summary], read: Callable[[Summary], Mapping[str, float]]) -> Breakdown:
    measured = [row for row in rows if read(row)]
    shown = measured[:MOST_COLUMNS]
    names = dict.fromkeys(name for row in shown for name in read(row))
    return Breakdown(
        title=title,
        methods=[row.backbone for row in shown],
        rows=[(name, [read(row).get(name) for row in shown]) for name in names],
        left_out=len(measured) - len(shown),
    )
