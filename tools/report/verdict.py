"""Say in a sentence what a chain showed: who beats whom, by how much, and whether that could be noise."""

from collections.abc import Sequence

from transfer.results import Comparison, Summary, compare

HEADLINE = ("AP", "box/AP", "mask/AP", "top1")
"""The metrics that a verdict speaks of; the tables hold all of them."""
REFERENCES = ("random", "moco_v2", "simclr")
"""Backbones that others are compared with, where a chain has them."""


def compare_with_reference(summaries: Sequence[Summary], reference: str) -> list[Comparison]:
    """Return every headline comparison of the other backbones with `reference`, protocol by protocol."""
    base = {(row.protocol, row.metric, str(row.deviations)): row for row in summaries if row.backbone == reference}
    comparisons = []
    for row in summaries:
        other = base.get((row.protocol, row.metric, str(row.deviations)))
        if row.backbone != reference and row.metric in HEADLINE and other is not None:
            comparisons.append(compare(row, other))
    return comparisons


def find_references(summaries: Sequence[Summary]) -> list[str]:
    """Return the known references that the chain has; its last backbone when it has none of them."""
    names = list(dict.fromkeys(row.backbone for row in summaries))
    return [name for name in REFERENCES if name in names] or names[-1:]


def write_verdict(summaries: Sequence[Summary]) -> list[str]:
    """Return one sentence per pair of backbones that is worth a sentence; one that says so when there is no result.

    Worth a sentence: each backbone against "random", and each mixing variant against the same method without.
    """
    if not summaries:
        return ["No stage has a result yet, so there is nothing to say."]
    sentences = []
    for reference in find_references(summaries):
        comparisons = compare_with_reference(summaries, reference)
        for name in dict.fromkeys(comparison.first for comparison in comparisons):
            if reference == "random" or _is_variant(name, reference):
                own = [comparison for comparison in comparisons if comparison.first == name]
                sentences.append(_describe_pair(name, reference, own, summaries))
    return sentences or [f"Only {summaries[0].backbone} has results; a verdict needs a second backbone."]


def _is_variant(name: str, reference: str) -> bool:
    return name.startswith("mochi") if reference == "moco_v2" else name.startswith(f"{reference}_")


def _describe_pair(name: str, reference: str, own: Sequence[Comparison], summaries: Sequence[Summary]) -> str:
    beyond = [entry for entry in own if entry.within is False]
    higher, lower = [entry for entry in beyond if entry.difference > 0], [e for e in beyond if e.difference < 0]
    unknown = [entry for entry in own if entry.within is None]
    parts = []
    if higher:
        parts.append(f"is above {reference} beyond the noise in {_list(higher)}")
    if lower:
        parts.append(f"is below it beyond the noise in {_list(lower)}" if higher else
                     f"is below {reference} beyond the noise in {_list(lower)}")  # fmt: skip
    if within := [entry for entry in own if entry.within]:
        parts.append(f"does not differ from {reference} by more than the noise in {_list(within)}")
    if unknown:
        parts.append(f"differs from {reference} in {_list(unknown)} by one run each, so with an unknown spread")
    runs = max(row.n for row in summaries if row.backbone == name)
    return f"{name} {'; '.join(parts)} ({runs} run{'s' if runs > 1 else ''} per backbone and protocol)."


def _list(comparisons: Sequence[Comparison]) -> str:
    return ", ".join(f"{entry.protocol} {entry.metric} ({entry.difference:+.1f})" for entry in comparisons)
