"""Find values by class, object size and kind of error in a result's details, whichever evaluator wrote them."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

CLASSES = "per_class"
"""Key of {class: percent}, of {class: {metric: percent}}, or of {task: {class: percent}}."""
SIZES = "by_size"
"""Key of {task: {"APs", "APm", "APl"}} in percent; VOC's task is "box"."""
ERRORS = "errors"
"""Key of {task: {"ap50_lost": {kind of error: AP50 points gained by correcting it}, …}}."""


def find_classes(details: Any, metric: str) -> dict[str, float]:
    """Return {class: percent} of a headline metric ("AP", "box/AP", "top1"); {} if absent."""
    task, _, name = metric.rpartition("/")
    table = _find(details, CLASSES)
    rows = table.get(task) if task else table
    rows = rows if isinstance(rows, Mapping) else {}
    values = {key: row.get(name) if isinstance(row, Mapping) else row for key, row in rows.items()}
    return _take_numbers(values)


def find_sizes(details: Any, metric: str) -> dict[str, float]:
    """Return {"APs", "APm", "APl"} in percent for the task of a headline AP; {} if absent."""
    return _take_numbers(_of_task(_find(details, SIZES), metric))


def find_error_kinds(details: Any, metric: str) -> dict[str, float]:
    """Return {kind of error: AP50 points} for the task of a headline AP; {} if absent."""
    return _take_numbers(_of_task(_find(details, ERRORS), metric).get("ap50_lost"))


def _of_task(table: Mapping[str, Any], metric: str) -> Mapping[str, Any]:
    rows = table.get(metric.rpartition("/")[0] or "box")
    return rows if isinstance(rows, Mapping) else {}


def average(tables: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of several runs' tables, for the names that all tables have."""
    names = [name for name in tables[0] if all(name in table for table in tables)] if tables else []
    return {name: statistics.fmean(table[name] for table in tables) for name in names}


def average_runs(find: Callable[[Any, str], dict[str, float]], details: Sequence[Any], metric: str) -> dict[str, float]:
    """Return the mean over several runs of the table that `find` returns for each run's details."""
    return average([find(entry, metric) for entry in details])


def _find(details: Any, key: str) -> Mapping[str, Any]:
    """Return the mapping under `key` in the details, or in those of the first data set that has it; {} if absent."""
    if not isinstance(details, Mapping):
        return {}
    if isinstance(details.get(key), Mapping):
        return dict(details[key])
    found = (_find(entry, key) for name, entry in details.items() if name != "config")
    return next((entry for entry in found if entry), {})


def _take_numbers(values: Any) -> dict[str, float]:
    """Return the finite numbers of a mapping; {} for anything else."""
    return {
        str(key): float(value)
        for key, value in (values.items() if isinstance(values, Mapping) else ())
        if isinstance(value, int | float) and abs(value) < float("inf")
    }
