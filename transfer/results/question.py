"""Question of a report: the methods to compare, and the control that the measurements must pass."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from transfer.results.seeds import method_of


@dataclass(frozen=True, kw_only=True)
class Controls:
    """Two reference methods; a protocol gives a verdict only if the ceiling is better than the floor."""

    floor: str = ""
    """A backbone that must be worse, such as random weights; empty: no control."""
    ceiling: str = ""
    """A backbone that must be better, such as supervised pretraining; empty: no control."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """The comparisons of a report; names are methods (NAME covers NAME@0, NAME@1 and so on)."""

    compare: tuple[tuple[str, str], ...] = ()
    """(first, second): is first better than second? Empty: every method against the baseline."""
    baseline: str = ""
    """Method that all others are compared with; empty: the first method."""
    controls: Controls = field(default_factory=Controls)
    delta: float | None = None
    """Percent points within which two methods count as equivalent; None: the published noise, or 0.5."""

    def list_pairs(self, methods: Sequence[str]) -> list[tuple[str, str]]:
        """Return the distinct pairs to compare; `methods` are those with results, in the order of the chain."""
        if self.compare:
            return list(dict.fromkeys(self.compare))
        baseline = self.baseline or (methods[0] if methods else "")
        return [(method, baseline) for method in methods if method != baseline]


def make_question(
    compare: Iterable[Sequence[str]],
    baseline: str,
    controls: Controls,
    delta: float | None,
    backbones: Mapping[str, Sequence[str]],
) -> Question:
    """Return the question of a chain; NAME@SEED refers to the method NAME.

    Args:
        compare: pairs of names.
        baseline: a name, or empty.
        controls: names, or empty.
        delta: percent points, or None.
        backbones: the chain's backbones in order, each with the variants that a sweep creates (none: itself). In
            `compare`, a swept backbone stands for all its variants, elsewhere for the first one.

    """
    variants: dict[str, list[str]] = {}
    for name, made in backbones.items():
        found = variants.setdefault(method_of(name), [])
        found.extend(method for method in map(method_of, made or [name]) if method not in found)

    def first_of(name: str) -> str:
        return variants.get(method_of(name), [method_of(name)])[0] if name else ""

    pairs = [
        (first, second)
        for one, other in compare
        for first in variants.get(method_of(one), [method_of(one)])
        for second in variants.get(method_of(other), [method_of(other)])
    ]
    return Question(
        compare=tuple(pairs),
        baseline=first_of(baseline or next(iter(backbones), "")),
        controls=Controls(floor=first_of(controls.floor), ceiling=first_of(controls.ceiling)),
        delta=delta,
    )


def find_question_mistakes(
    compare: Iterable[Sequence[str]], baseline: str, controls: Controls, delta: float | None, names: Iterable[str]
) -> list[tuple[str, str]]:
    """Return (config key, message) for each mistake in a question about the backbones `names`."""
    pairs = list(compare)
    known = list(dict.fromkeys(name for given in names for name in (given, method_of(given))))
    mistakes = [("compare", text) for text in map(_check_pair, range(len(pairs)), pairs) if text]
    asked = [(f"compare[{place}]", name) for place, pair in enumerate(pairs) for name in pair]
    asked += [("baseline", baseline), ("controls.floor", controls.floor), ("controls.ceiling", controls.ceiling)]
    listed = ", ".join(dict.fromkeys(map(method_of, known))) or "none"
    mistakes += [
        (re.split(r"[.\[]", key)[0], f"{key} names {name!r}, which is not a backbone here; expected one of {listed}")
        for key, name in asked
        if name and name not in known
    ]
    if baseline and pairs:
        text = "compare and baseline are both given; give either the pairs or the method that all are compared with"
        mistakes.append(("compare", text))
    if text := _check_controls(controls):
        mistakes.append(("controls", text))
    if delta is not None and not 0 < delta < 100:
        mistakes.append(("delta", f"delta is {delta}; expected percent points above 0 and below 100"))
    return mistakes


def _check_pair(place: int, pair: Sequence[str]) -> str:
    if len(pair) == 2 and method_of(pair[0]) != method_of(pair[1]):
        return ""
    return f"compare[{place}] is [{', '.join(map(str, pair))}]; expected two different methods, as in [mochi, moco_v2]"


def _check_controls(controls: Controls) -> str:
    if bool(controls.floor) != bool(controls.ceiling):
        return "controls needs both a floor and a ceiling, as in {floor: random, ceiling: supervised}"
    if controls.floor and method_of(controls.floor) == method_of(controls.ceiling):
        return f"controls: floor and ceiling are both {controls.floor}; expected two different methods"
    return ""
