"""Bring the stages of a chain into an order in which each comes after those it builds on."""

import heapq
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from tools.chain.plan import stage_commands
from tools.chain.plan.stage_commands import Draft

LAST = ("report", "notify")
"""Kinds that come after everything that stands before them: the last stages of a chain."""


def sort_drafts(drafts: Sequence[Draft]) -> list[Draft]:
    """Return the drafts, each after those it names, else in the given order; the report is given all others.

    Raises:
        ValueError: two stages of one name, a name that is no stage, a circle.

    """
    ranks = {draft.name: rank for rank, draft in enumerate(drafts)}
    if twice := [name for name, count in Counter(draft.name for draft in drafts).items() if count > 1]:
        raise ValueError(f"two stages have the name {', '.join(sorted(twice))}; rename a backbone, protocol or stage")
    whole = [replace(draft, after=_before(draft, ranks)) for draft in drafts]
    missing = [len(draft.after) for draft in whole]
    followers: dict[str, list[int]] = {name: [] for name in ranks}
    for rank, draft in enumerate(whole):
        for name in draft.after:
            followers[name].append(rank)
    ready = [rank for rank, count in enumerate(missing) if not count]
    ordered: list[Draft] = []
    while ready:
        draft = whole[heapq.heappop(ready)]
        ordered.append(draft)
        for rank in followers[draft.name]:
            missing[rank] -= 1
            if not missing[rank]:
                heapq.heappush(ready, rank)
    if len(ordered) < len(whole):
        circle = ", ".join(draft.name for rank, draft in enumerate(whole) if missing[rank])
        raise ValueError(f"these stages wait for each other: {circle}; mend `after` or the {{stage:NAME}} words")
    return ordered


def _before(draft: Draft, ranks: dict[str, int]) -> tuple[str, ...]:
    if draft.kind in LAST:
        return tuple(name for name, rank in ranks.items() if rank < ranks[draft.name])
    before = tuple(dict.fromkeys((*draft.after, *stage_commands.stages_named_in(draft.command))))
    if unknown := [name for name in before if name not in ranks]:
        names = ", ".join(ranks)
        raise ValueError(
            f"stage {draft.name} builds on {', '.join(unknown)}, no stage of this chain; there are: {names}"
        )
    return before
