"""Names of the seeds of a method, and rows of its encoders pooled: mean and standard deviation.

An encoder called NAME@SEED is another seed of NAME: mochi, mochi@1 and mochi@2 are three encoders of one method.
"""

import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]
SPREAD = "_std"
"""Suffix of the key of a sample standard deviation over the encoders (n - 1 in the denominator)."""
COUNT = "encoders"
"""Key of the number of encoders in a pooled row."""
PLACES = ("encoder", "kind", "rank")
"""Keys that identify a row of an analysis; all other keys are measurements."""


def method_of(encoder: str) -> str:
    """Return NAME for NAME@SEED, and any other name unchanged."""
    return re.sub(r"@\d+$", "", encoder)


def seed_name(method: str, seed: int) -> str:
    """Return the name of one pretraining of a method."""
    return f"{method}@{seed}"


def select_backbones(chosen: Iterable[str], backbones: Iterable[str]) -> tuple[str, ...]:
    """Return the backbones named in `chosen`, each a backbone itself or all seeds of a method; others are left out."""
    known = tuple(backbones)
    found = [name for choice in chosen for name in ([choice] if choice in known else _seeds_of(choice, known))]
    return tuple(dict.fromkeys(found))


def pool_seeds(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return one row per method and kind or rank, in the order of their first rows.

    Every number becomes the mean over the method's encoders. With two or more encoders, KEY_std is added for each
    number, and their count as `encoders`. Null and infinite values are left out of the mean.
    """
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        place = (method_of(str(row["encoder"])), row.get("kind"), row.get("rank"))
        groups.setdefault(place, []).append(row)
    return [_pool(method, group) for (method, *_), group in groups.items()]


def _seeds_of(method: str, backbones: Iterable[str]) -> list[str]:
    return [name for name in backbones if method_of(name) == method]


def _pool(method: str, group: Sequence[Row]) -> dict[str, Any]:
    pooled = {**group[0], "encoder": method}
    if len(group) == 1:
        return pooled
    for key in [key for key in group[0] if key not in PLACES]:
        values = [row[key] for row in group if row.get(key) is not None and abs(row[key]) != float("inf")]
        pooled[key] = statistics.fmean(values) if values else None
        pooled[key + SPREAD] = statistics.stdev(values) if len(values) > 1 else None
    return pooled | {COUNT: len(group)}
