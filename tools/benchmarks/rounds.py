"""Interleave measurements in rounds, so that other load slows all sides equally, and summarise their ratios.

In each round every side runs once; the first round is a warm-up and is not counted; the order rotates between rounds.
Ratios are taken within a round; the median over the rounds is reported with the minimum and the maximum.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any, TypeVar

T = TypeVar("T")


def take_turns(sides: Mapping[str, Callable[[], T]], rounds: int) -> dict[str, list[T]]:
    """Return the values that each side returned, one per counted round.

    Args:
        sides: name → function that runs one measurement.
        rounds: counted rounds; one warm-up round precedes them.

    Raises:
        ValueError: `rounds` is below 1.

    """
    if rounds < 1:
        raise ValueError(f"rounds={rounds}: expected at least 1")
    names = list(sides)
    taken: dict[str, list[T]] = {name: [] for name in names}
    for number in range(rounds + 1):
        start = number % len(names)
        for name in names[start:] + names[:start]:
            value = sides[name]()
            if number:
                taken[name].append(value)
    return taken


def divide(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Return ours / theirs, round by round."""
    return [one / other for one, other in zip(ours, theirs, strict=True)]


def summarise_ratios(ratios: Sequence[float], name: str = "ratio") -> dict[str, Any]:
    """Return {name: median, "low": minimum, "high": maximum, "rounds": number} of the ratios."""
    return {
        name: round(statistics.median(ratios), 4),
        "low": round(min(ratios), 4),
        "high": round(max(ratios), 4),
        "rounds": len(ratios),
    }


def find_versions(*packages: str) -> dict[str, str]:
    """Return {package: version} of the installed ones."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
