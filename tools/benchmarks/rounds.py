"""Take turns, so that a busy machine slows everything that is compared alike, and summarise the rounds.

One round gives every side one turn; the first round warms up and does not count; the order rotates from round to round.
A ratio is taken within a round; the median over the rounds is reported with the lowest and the highest.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any, TypeVar

T = TypeVar("T")


def take_turns(sides: Mapping[str, Callable[[], T]], rounds: int) -> dict[str, list[T]]:
    """Return what each side's turns returned, one value per counted round.

    Args:
        sides: name → one turn.
        rounds: rounds that count; one more goes before them.

    Raises:
        ValueError: no round would count.

    """
    if rounds < 1:
        raise ValueError(f"rounds={rounds}: at least one round must count")
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
    """Return {name: median, "low", "high", "rounds"} of ratios within rounds."""
    return {
        name: round(statistics.median(ratios), 4),
        "low": round(min(ratios), 4),
        "high": round(max(ratios), 4),
        "rounds": len(ratios),
    }


def find_versions(*packages: str) -> dict[str, str]:
    """Return {package: installed version} of those that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
