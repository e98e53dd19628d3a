"""Format a plan as a table: order, GPUs, time limit and cost of the stages."""

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from pretrain.runtime.command_line import say_count
from tools.chain.plan.make_plan import Stage

MOST_ROWS = 40
"""In a longer plan, stages of the same protocol or kind, state and number of GPUs share a row."""
MOST_NAMES = 3
WIDTH = 140
"""Columns of the table where there is no terminal."""
UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True)
class Row:
    """A stage of a plan, or several similar ones."""

    name: str
    group: str
    """The protocol of a measurement, else the kind."""
    state: str
    after: str
    gpus: int
    limit_min: int
    gpu_hours: float | None
    """Remaining; None if unknown."""
    note: str
    count: int = 1

    @classmethod
    def of(cls, stage: Stage, protocol: str, state: str, gpu_hours: float | None, note: str) -> "Row":
        """Return the row of one stage; `protocol` is empty if it is no measurement."""
        names = list(stage.upstream)
        more = f", {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
        after = "all" if stage.kind in ("report", "notify") else ", ".join(names[:MOST_NAMES]) + more or "nothing"
        return cls(
            name=stage.name,
            group=protocol or stage.kind,
            state=state,
            after=after,
            gpus=stage.resources.gpus * stage.resources.nodes,
            limit_min=stage.resources.time_min,
            gpu_hours=0.0 if state == "done" else gpu_hours,
            note=note,
        )


def write_plan_table(rows: Sequence[Row], most: int = MOST_ROWS) -> str:
    """Return the rows as a table; similar rows are joined if there are more than `most`."""
    from rich.console import Console  # imported late: only a plan needs it
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for title, side in (("state", "left"), ("stage", "left"), ("after", "left"), ("GPUs", "right"), ("limit", "right")):
        table.add_column(title, justify=side, no_wrap=title == "stage", overflow="fold")  # type: ignore[arg-type]
    table.add_column("GPU-hours", justify="right")
    table.add_column("", overflow="fold")
    for row in join_alike(rows) if len(rows) > most else rows:
        name = row.name if row.count == 1 else f"{row.count} × {row.group}"
        cost = UNKNOWN if row.gpu_hours is None else f"{row.gpu_hours:.1f}" if row.gpu_hours else "–"
        texts = [row.state, name, row.after, str(row.gpus or "–"), say_limit(row.limit_min), cost, row.note]
        table.add_row(*map(_plain, texts))
    stream = io.StringIO()
    Console(file=stream, width=WIDTH, highlight=False, markup=False, emoji=False).print(table)
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines())


def join_alike(rows: Sequence[Row]) -> list[Row]:
    """Return one row per group, state and number of GPUs, with the number of stages and their total cost."""
    joined: dict[tuple[str, str, int], Row] = {}
    for row in rows:
        key = (row.group, row.state, row.gpus)
        if key not in joined:
            joined[key] = row
            continue
        first = joined[key]
        known = first.gpu_hours is not None and row.gpu_hours is not None
        hours = (first.gpu_hours or 0) + (row.gpu_hours or 0) if known else None
        note = first.note if first.note == row.note else ""
        joined[key] = replace(first, count=first.count + 1, gpu_hours=hours, note=note, after="")
    return list(joined.values())


def say_total(rows: Sequence[Row]) -> str:
    """Return the number of finished stages and the remaining GPU-hours; unknown hours are never counted as 0."""
    left = [row for row in rows if row.state != "done"]
    known = sum(row.gpu_hours or 0 for row in left)
    unknown = sum(row.gpu_hours is None for row in left)
    cost = f"about {known:.1f} GPU-hours" if known else "GPU-hours unknown" if unknown else "no GPU-hours"
    if unknown:
        hint = "set resources.LABEL.hours"
        stages = say_count(unknown, "stage")
        cost = f"{cost} and {stages} unknown ({hint})" if known else f"{cost} of {stages} ({hint})"
    rules = sum(row.note.startswith("batch rule") for row in rows)
    batch = f"; {say_count(rules, 'stage')} under another batch rule" if rules else ""
    return f"{len(rows) - len(left)} done, {len(left)} to run; {cost}{batch}"


class _Path(NamedTuple):
    """The longest path to the end of a stage."""

    hours: float
    before: str


def say_longest_path(rows: Sequence[Row], stages: Sequence[Stage]) -> str:
    """Return the critical path of the unfinished stages; "" if there are none."""
    hours = {row.name: _hours_of(row) for row in rows}
    known = {row.name: bool(row.gpus) and row.gpu_hours is not None for row in rows}
    paths: dict[str, _Path] = {}
    for stage in stages:
        before = max(stage.upstream, key=lambda name: paths[name].hours, default="")
        start = paths[before].hours if before else 0.0
        paths[stage.name] = _Path(start + hours[stage.name], before)
    name = max(paths, key=lambda name: paths[name].hours, default="")
    if not name or not paths[name].hours:
        return ""
    total, way = paths[name].hours, list[str]()
    while name:
        way.insert(0, name)
        name = paths[name].before
    way = [name for name in way if hours[name]]
    guessed = sum(not known[name] for name in way)
    by = f" (by the time limit for {guessed} of the {len(way)})" if guessed else ""
    return f"longest path: {' → '.join(way)}: {total:.1f} h{by}"


def say_limit(minutes: int) -> str:
    """Return "0:30" or "1-12:00" (days-hours:minutes), as Slurm writes a limit."""
    days, rest = divmod(minutes, 24 * 60)
    clock = f"{rest // 60}:{rest % 60:02d}"
    return f"{days}-{rest // 60:02d}:{rest % 60:02d}" if days else clock


def _hours_of(row: Row) -> float:
    """Return a stage's duration in hours: its GPU-hours over its GPUs, else its time limit."""
    if row.state == "done":
        return 0.0
    if row.gpus and row.gpu_hours is not None:
        return row.gpu_hours / row.gpus
    return row.limit_min / 60


def _plain(text: str) -> str:
    return text.replace("\n", " ")
