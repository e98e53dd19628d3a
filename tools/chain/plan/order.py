"""Sort the stages of a chain topologically."""

import heapq
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from tools.chain.plan import stage_commands
from tools.chain.plan.stage_commands import Draft

LAST = ("report", "notify")
"""Kinds that run after all stages listed before them: the last stages of a chain."""


def sort_drafts(drafts: Sequence[Draft]) -> list[Draft]:
    """Return the drafts in topological order, otherwise as given; the report depends on all others.

    Raises:
        ValueError: duplicate names, a name that is no stage, or a dependency cycle.

    """
    ranks = {draft.name: rank for rank, draft in enumerate(drafts)}
    if twice := [name for name, count in Counter(draft.name for draft in drafts).items() if count > 1]:
        raise ValueError(f"two stages have the name {', '.join(sorted(twice))}; rename a backbone, protocol or stage")
    complete = [replace(draft, after=_before(draft, ranks)) for draft in drafts]
    missing = [len(draft.after) for draft in complete]
    followers: dict[str, list[int]] = {name: [] for name in ranks}
    for rank, draft in enumerate(complete):
        for name in draft.after:
            followers[name].append(rank)
    ready = [rank for rank, count in enumerate(missing) if not count]
    ordered: list[Draft] = []
    while ready:
        draft = complete[heapq.heappop(ready)]
        ordered.append(draft)
        for rank in followers[draft.name]:
            missing[rank] -= 1
            if not missing[rank]:
                heapq.heappush(ready, rank)
    if len(ordered) < len(complete):
        cycle = ", ".join(draft.name for rank, draft in enumerate(complete) if missing[rank])
        raise ValueError(f"dependency cycle among stages: {cycle}; fix `after` or the {{stage:NAME}} arguments")
    return ordered


def _before(draft: Draft, ranks: dict[str, int]) -> tuple[str, ...]:
    if draft.kind in LAST:
        return tuple(name for name, rank in ranks.items() if rank < ranks[draft.name])
    before = tuple(dict.fromkeys((*draft.after, *stage_commands.stages_named_in(draft.command))))
    if unknown := [name for name in before if name not in ranks]:
        names = ", ".join(ranks)
        raise ValueError(
            f"stage {draft.name} depends on {', '.join(unknown)}, no stage of this chain; there are: {names}"
        )
    return before
