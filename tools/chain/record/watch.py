"""Track the states of a chain's stages, at a cost per change that does not grow with the chain."""

import heapq
import time
from collections.abc import Sequence
from pathlib import Path

from tools.chain.plan.make_plan import Stage
from tools.chain.record.state import BLOCKING, ENDED, STATES, find_state, find_states

LOOK_AGAIN_S = 10.0
"""Seconds between two reads of all stages, for changes by other processes; more for a chain that takes long to read."""
SHARE_OF_LOOKS = 0.02
"""Largest share of the driver's time spent on such reads."""


class StateWatch:
    """The states of all stages, kept up to date by `update` for one stage and `look_again` for all.

    `missing` counts the stages that a stage still waits for: for their end if it runs always, else for their success.
    """

    def __init__(self, chain: Path, stages: Sequence[Stage]) -> None:
        self.chain, self.stages = chain, list(stages)
        self.index = {stage.name: number for number, stage in enumerate(stages)}
        self.after: dict[str, list[int]] = {stage.name: [] for stage in stages}
        for number, stage in enumerate(stages):
            for name in stage.upstream:
                self.after[name].append(number)
        self.look_again()

    def look_again(self) -> None:
        """Read the states of all stages."""
        began = time.monotonic()
        self.states = find_states(self.chain, self.stages)
        self.missing = [sum(not self._lets_start(stage, name) for name in stage.upstream) for stage in self.stages]
        self.counts = dict.fromkeys(STATES, 0)
        for state in self.states.values():
            self.counts[state] += 1
        self.running = {name for name, state in self.states.items() if state == "running"}
        self._ready = [number for number in range(len(self.stages)) if self._is_ready(number)]
        now = time.monotonic()
        self.next_look = now + max(LOOK_AGAIN_S, (now - began) / SHARE_OF_LOOKS)

    def update(self, name: str) -> None:
        """Read the state of one stage, and propagate the change to the stages after it."""
        waiting = [self.index[name]]
        while waiting:
            number = heapq.heappop(waiting)  # in the plan's order: topological
            stage = self.stages[number]
            before = {upstream: self.states[upstream] for upstream in stage.upstream}
            old, new = self.states[stage.name], find_state(self.chain, stage, before)
            if old != new:
                self._change(stage.name, old, new)
                changed = (later for later in self.after[stage.name] if self._may_change(later, new))
                waiting = sorted({*waiting, *changed})
            if self._is_ready(number):
                heapq.heappush(self._ready, number)

    def take_ready(self) -> Stage | None:
        """Return and remove the first stage that may start; `update` or `put_back` makes it available again."""
        while self._ready:
            number = heapq.heappop(self._ready)
            if self._is_ready(number):
                return self.stages[number]
        return None

    def put_back(self, name: str) -> None:
        """Make a stage available again."""
        heapq.heappush(self._ready, self.index[name])

    @property
    def ended(self) -> int:
        """Number of stages that are done, failed or blocked."""
        return sum(self.counts[state] for state in ENDED)

    def _change(self, name: str, old: str, new: str) -> None:
        earlier = [self._lets_start(self.stages[later], name) for later in self.after[name]]
        self.states[name] = new
        self.counts[old] -= 1
        self.counts[new] += 1
        (self.running.add if new == "running" else self.running.discard)(name)
        for later, could in zip(self.after[name], earlier, strict=True):
            self.missing[later] += int(could) - int(self._lets_start(self.stages[later], name))
            if self._is_ready(later):
                heapq.heappush(self._ready, later)

    def _may_change(self, number: int, state: str) -> bool:
        """Return whether a stage must be read again because one before it is in `state` now."""
        stage = self.stages[number]
        if stage.always:  # it is done only for the states that it saw; read once all before it have ended
            return self.missing[number] == 0 or self.states[stage.name] == "done"
        return state in BLOCKING or self.states[stage.name] in BLOCKING

    def _lets_start(self, stage: Stage, upstream: str) -> bool:
        state = self.states[upstream]
        return state in ENDED if stage.always else state == "done"

    def _is_ready(self, number: int) -> bool:
        return self.missing[number] == 0 and self.states[self.stages[number].name] in ("pending", "lost")
