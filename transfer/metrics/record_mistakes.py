"""Collect the mistakes of many records, so that one error lists every kind with its count and first example."""

import math
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np


class Mistakes:
    """Counts of mistakes by kind, with the first example of each."""

    def __init__(self) -> None:
        self._first: dict[str, str] = {}
        self._count: Counter[str] = Counter()

    def add(self, kind: str, example: str) -> None:
        """Count one mistake of this kind."""
        self._first.setdefault(kind, example)
        self._count[kind] += 1

    def refuse(self, where: str) -> None:
        """Raise ValueError with one line per kind if there are mistakes."""
        if self._count:
            lines = [f"{where}: {count} {kind}, e.g. {self._first[kind]}" for kind, count in self._count.items()]
            raise ValueError("\n".join(lines))


def is_number(value: Any) -> bool:
    """Return whether `value` is a finite number and not a boolean."""
    return isinstance(value, int | float | np.number) and not isinstance(value, bool) and math.isfinite(value)


def lie_within(numbers: Iterable[Any], limit: float) -> bool:
    """Return whether all of `numbers` are finite numbers in [-limit, limit]."""
    return all(is_number(number) and -limit <= number <= limit for number in numbers)
