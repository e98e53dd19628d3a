"""Say in a sentence what a chain showed: who beats whom, by how much, and whether that could be noise."""

from collections.abc import Sequence
from dataclasses import dataclass

from transfer.results.run_result import Comparison, Summary, compare

HEADLINE = ("AP", "box/AP", "mask/AP", "top1")
"""The metrics that a verdict speaks of; the tables hold all of them."""
REFERENCES = ("random", "moco_v2", "simclr")
"""Backbones that others are compared with, where a chain has them."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A backbone beside the one that it is measured against."""

    name: str
    reference: str
    comparisons: Sequence[Comparison]
    """One per protocol and headline metric."""
    is_variant: bool
    """The same method with and without mixing."""

    @property
    def higher(self) -> list[Comparison]:
        """Where `name` lies above by more than the noise."""
        return [entry for entry in self.comparisons if entry.within is False and entry.difference > 0]

    @property
    def lower(self) -> list[Comparison]:
        """Where it lies below by more than the noise."""
        return [entry for entry in self.comparisons if entry.within is False and entry.difference < 0]

    @property
    def unknown(self) -> list[Comparison]:
        """Where nothing tells the noise: one run each, and no published one."""
        return [entry for entry in self.comparisons if entry.within is None]


def compare_with_reference(summaries: Sequence[Summary], reference: str) -> list[Comparison]:
    """Return every headline comparison of the other backbones with `reference`, protocol by protocol."""
    base = {(row.protocol, row.metric, str(row.deviations)): row for row in summaries if row.backbone == reference}
    comparisons = []
    for row in summaries:
        other = base.get((row.protocol, row.metric, str(row.deviations)))
        if row.backbone != reference and row.metric in HEADLINE and other is not None:
            comparisons.append(compare(row, other))
    return comparisons


def find_pairs(summaries: Sequence[Summary]) -> list[Pair]:
    """Return the pairs that are worth a sentence, in the order of the chain.

    Worth it: each backbone beside "random", and each mixing variant beside the same method without. A chain that knows
    no such pair has all its backbones compared with the first reference it has, or else with its last backbone.
    """
    names = list(dict.fromkeys(row.backbone for row in summaries))
    references = [name for name in REFERENCES if name in names] or names[-1:]
    pairs = []
    for reference in references:
        comparisons = compare_with_reference(summaries, reference)
        for name in dict.fromkeys(entry.first for entry in comparisons):
            own = [entry for entry in comparisons if entry.first == name]
            variant = _is_variant(name, reference)
            pairs.append(Pair(name=name, reference=reference, comparisons=own, is_variant=variant))
    worth = [pair for pair in pairs if pair.reference == "random" or pair.is_variant]
    return worth or [pair for pair in pairs if pair.reference == references[0]]


def write_headline(summaries: Sequence[Summary]) -> str:
    """Return the verdict in one sentence, on the chain's first mixing variant, or else on its first pair."""
    pairs = find_pairs(summaries)
    if not pairs:
        return _lack_of_results(summaries)
    pair = next((pair for pair in pairs if pair.is_variant), pairs[0])
    name, reference, known = pair.name, pair.reference, len(pair.comparisons) - len(pair.unknown)
    if not known:
        above = sum(entry.difference > 0 for entry in pair.comparisons)
        return (
            f"Not known yet: {name} is above {reference} in {above} of {_count(len(pair.comparisons))}, but by one run "
            "each, so it could be noise."
        )
    if not pair.higher and not pair.lower:
        return f"No difference shown: {name} and {reference} lie within the noise in {_all_of(known, known)}."
    best = max(pair.higher or pair.lower, key=lambda entry: abs(entry.difference))
    most = f"by up to {abs(best.difference):.1f} points ({best.metric} of {best.protocol})"
    if pair.higher and pair.lower:
        return (
            f"Mixed: beyond the noise, {name} is above {reference} in {len(pair.higher)} of {_count(known)}, {most}, "
            f"and below in {len(pair.lower)}."
        )
    word, side = ("Yes", "above") if pair.higher else ("No", "below")
    where = _all_of(len(pair.higher or pair.lower), known)
    return f"{word}: {name} is {side} {reference} beyond the noise in {where}, {most}."


def write_verdict(summaries: Sequence[Summary]) -> list[str]:
    """Return one sentence per pair of backbones that is worth it; one that says so when there is no pair."""
    return [_describe_pair(pair, summaries) for pair in find_pairs(summaries)] or [_lack_of_results(summaries)]


def _lack_of_results(summaries: Sequence[Summary]) -> str:
    if not summaries:
        return "No stage has a result yet, so there is nothing to say."
    names = list(dict.fromkeys(row.backbone for row in summaries))
    if len(names) == 1:
        return f"Only {names[0]} has results; a verdict needs a second backbone."
    return f"{' and '.join(names)} share no protocol with equal deviations, so they cannot be compared."


def _is_variant(name: str, reference: str) -> bool:
    return name.startswith("mochi") if reference == "moco_v2" else name.startswith(f"{reference}_")


def _describe_pair(pair: Pair, summaries: Sequence[Summary]) -> str:
    reference, higher = pair.reference, pair.higher
    parts = []
    if higher:
        parts.append(f"is above {reference} beyond the noise in {_list(higher)}")
    if pair.lower:
        parts.append(f"is below {'it' if higher else reference} beyond the noise in {_list(pair.lower)}")
    if within := [entry for entry in pair.comparisons if entry.within]:
        parts.append(f"does not differ from {reference} by more than the noise in {_list(within)}")
    if pair.unknown:
        parts.append(f"differs from {reference} in {_list(pair.unknown)} by one run each, so with an unknown spread")
    runs = max(row.n for row in summaries if row.backbone == pair.name)
    return (
        f"{pair.name} {'; '.join(parts)} ({f'up to {runs} runs' if runs > 1 else '1 run'} per backbone and protocol)."
    )


def _list(comparisons: Sequence[Comparison]) -> str:
    return ", ".join(f"{entry.protocol} {entry.metric} ({entry.difference:+.1f})" for entry in comparisons)


def _count(number: int) -> str:
    return f"{number} measurement{'' if number == 1 else 's'}"


def _all_of(part: int, whole: int) -> str:
    if part < whole:
        return f"{part} of {_count(whole)}"
    return "the one measurement" if whole == 1 else f"all {_count(whole)}"
