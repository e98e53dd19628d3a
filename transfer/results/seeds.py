"""Bring encoders of one method that were pretrained from several seeds to one row each: their mean and its spread.

An encoder called NAME@SEED is another seed of NAME: mochi, mochi@1 and mochi@2 are three encoders of one method.
"""

import re
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]
SPREAD = "_std"
"""Added to a number's key: its sample standard deviation over the encoders (n - 1 in the denominator)."""
COUNT = "encoders"
"""Key of the number of encoders behind a pooled row."""
PLACES = ("encoder", "kind", "rank")
"""What tells the rows of one analysis apart; everything else is measured."""


def method_of(encoder: str) -> str:
    """Return NAME of NAME@SEED, and any other name as it is."""
    return re.sub(r"@\d+$", "", encoder)


def pool_seeds(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return one row per method and kind or rank, in the order in which they came.

    Every number becomes the mean over the method's encoders. With two encoders or more, KEY_std is added for each, and
    encoders, their count. A number that one of them lacks (null, or infinite) is pooled over the others.

    """
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        place = (method_of(str(row["encoder"])), row.get("kind"), row.get("rank"))
        groups.setdefault(place, []).append(row)
    return [_pool(method, group) for (method, *_), group in groups.items()]


def _pool(method: str, group: Sequence[Row]) -> dict[str, Any]:
    pooled = {**group[0], "encoder": method}
    if len(group) == 1:
        return pooled
    for key in [key for key in group[0] if key not in PLACES]:
        values = [row[key] for row in group if row.get(key) is not None and abs(row[key]) != float("inf")]
        pooled[key] = statistics.fmean(values) if values else None
        pooled[key + SPREAD] = statistics.stdev(values) if len(values) > 1 else None
    return pooled | {COUNT: len(group)}
