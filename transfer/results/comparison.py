"""Answer a question from summaries: every comparison with its evidence, and whether the control was passed.

All headline comparisons of a report are one family for Holm's correction. The control is a gate before them, with a
family of its own: asking more questions does not make it harder to pass, and passing it is no finding.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from transfer.metrics.bootstrap import Interval, MetricDraws, mean_draws, paired_interval
from transfer.results.evidence import DEFAULT_DELTA, LEVEL, Evidence, judge, weigh
from transfer.results.planning import Spread, count_units, find_cheapest_split, measure_spread
from transfer.results.question import Question
from transfer.results.summaries import HEADLINE, RunKey, Summary, published_noise

DrawsReader = Callable[[RunKey], Mapping[str, MetricDraws]]
"""Returns a run's bootstrap draws by metric; {} where it has none."""


@dataclass(frozen=True, kw_only=True)
class Costs:
    """What the runs of a chain cost on average, in hours of a GPU (of the machine where there is none)."""

    pretraining: float | None = None
    finetuning: Mapping[str, float] = field(default_factory=dict)
    """Protocol → hours of one fine-tuning."""
    unit: str = "GPU-hours"


@dataclass(frozen=True, kw_only=True)
class Remedy:
    """Runs that would show a true difference of delta with 80 % power, as far as the spread is known by now."""

    pretrainings: int
    """On each side."""
    finetunings: int
    """Of each pretraining."""
    hours: float | None
    """Of all runs of both sides together; None where their cost is unknown."""
    unit: str


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Whether `first` is better than `second` in one metric of one protocol."""

    first: str
    second: str
    protocol: str
    metric: str
    recipe: str
    deviations: int
    """Number of settings that deviate from the protocol, the same on both sides."""
    evidence: Evidence
    test_set: Interval | None = None
    """What another test set of this size would change, 95 %; None: unknown."""
    withheld: bool = False
    """The chain names a control, and the protocol has not passed it (yet): its outcome is no verdict."""
    remedy: Remedy | None = None
    """What would decide it, where it is undecided and the spread is known."""


@dataclass(frozen=True, kw_only=True)
class Control:
    """Whether the ceiling is better than the floor, in every headline metric of every protocol."""

    floor: str
    ceiling: str
    comparisons: tuple[Comparison, ...]

    @property
    def passed(self) -> bool | None:
        """Whether all comparisons came out better; None where one has too few runs to tell, or there is none."""
        outcomes = {entry.evidence.outcome for entry in self.comparisons}
        if outcomes & {"worse", "equivalent", "undecided"}:
            return False
        return None if not outcomes or "too_few_runs" in outcomes else True

    def passed_by(self, protocol: str, recipe: str) -> bool:
        """Return whether one protocol was measured and every headline metric of it came out better."""
        mine = [entry for entry in self.comparisons if (entry.protocol, entry.recipe) == (protocol, recipe)]
        return bool(mine) and all(entry.evidence.outcome == "better" for entry in mine)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Everything that a report answers."""

    comparisons: tuple[Comparison, ...]
    control: Control | None = None
    """None: the chain names no control."""

    @property
    def family(self) -> int:
        """Number of tests that share the 5 %; the control is tested before them, by itself."""
        return sum(entry.evidence.p is not None for entry in self.comparisons)


def reach_verdict(
    summaries: Sequence[Summary],
    question: Question,
    draws: DrawsReader | None = None,
    costs: Costs | None = None,
) -> Verdict:
    """Return the verdict: comparisons pair by pair in the question's order, then protocol by protocol."""
    methods = list(dict.fromkeys(row.backbone for row in summaries))
    table = _index(summaries)
    asked = [entry for pair in question.list_pairs(methods) for entry in _compare(*pair, table, question.delta)]
    answers = _judge_all(asked, table, draws)
    spreads = _Spreads(summaries, sum(entry.evidence.p is not None for entry in answers), costs or Costs())
    answers = [spreads.add_remedy(entry) for entry in answers]
    ends = question.controls
    if not ends.floor:
        return Verdict(comparisons=tuple(answers))
    scale = _judge_all(list(_compare(ends.ceiling, ends.floor, table, question.delta)), table, draws)
    control = Control(floor=ends.floor, ceiling=ends.ceiling, comparisons=tuple(scale))
    answers = [replace(entry, withheld=not control.passed_by(entry.protocol, entry.recipe)) for entry in answers]
    return Verdict(comparisons=tuple(answers), control=control)


def _judge_all(asked: Sequence[Comparison], table: "Table", draws: DrawsReader | None) -> list[Comparison]:
    """Return one family of comparisons with their outcomes and, where draws are there, test-set intervals."""
    judged = judge([entry.evidence for entry in asked])
    found = [replace(entry, evidence=evidence) for entry, evidence in zip(asked, judged, strict=True)]
    if draws is None:
        return found
    return [replace(entry, test_set=_find_test_set(entry, table, draws)) for entry in found]


def find_best(rows: Sequence[Summary], verdict: Verdict) -> str | None:
    """Return the method that is better than every other row of one metric and recipe; None where none is shown to be.

    None too where the protocol has not passed its control. Only the highest mean can be best; it is tested against all
    others with the family's strictest step, and no comparison of the verdict may say otherwise.
    """
    if len(rows) < 2 or rows[0].metric not in HEADLINE:
        return None
    if verdict.control is not None and not verdict.control.passed_by(rows[0].protocol, rows[0].recipe):
        return None
    top = max(rows, key=lambda row: row.mean)
    known = {
        (entry.first, entry.second): entry.evidence.outcome
        for entry in verdict.comparisons
        if (entry.protocol, entry.metric, entry.recipe) == (top.protocol, top.metric, top.recipe)
        and top.backbone in (entry.first, entry.second)
    }
    for row in rows:
        if row is top:
            continue
        p = _weigh(top, row, None).p
        if p is None or p * max(1, verdict.family) > LEVEL:
            return None
        if known.get((top.backbone, row.backbone), "better") != "better":
            return None
        if known.get((row.backbone, top.backbone), "worse") != "worse":
            return None
    return top.backbone


class _Spreads:
    """The spread of each protocol's metric over all methods, worked out once and only where it is asked for."""

    def __init__(self, summaries: Sequence[Summary], family: int, costs: Costs) -> None:
        self.samples: dict[tuple[str, str, str], list[Summary]] = {}
        for row in summaries:
            self.samples.setdefault((row.protocol, row.recipe, row.metric), []).append(row)
        self.level = LEVEL / max(1, family)
        self.costs = costs
        self.known: dict[tuple[str, str, str], Spread] = {}
        self.remedies: dict[tuple[object, ...], Remedy | None] = {}

    def add_remedy(self, entry: Comparison) -> Comparison:
        """Return the comparison with what would decide it, where it is undecided."""
        if entry.evidence.outcome != "undecided":
            return entry
        key = (entry.protocol, entry.recipe, entry.metric)
        if key not in self.known:
            self.known[key] = measure_spread([row.sample for row in self.samples[key]])
        place = (*key, entry.evidence.delta, entry.evidence.claim)
        if place not in self.remedies:
            self.remedies[place] = self._plan(entry, self.known[key])
        return replace(entry, remedy=self.remedies[place])

    def _plan(self, entry: Comparison, spread: Spread) -> Remedy | None:
        delta, unit = entry.evidence.delta, self.costs.unit
        pretraining, finetuning = self.costs.pretraining, self.costs.finetuning.get(entry.protocol)
        if entry.evidence.claim == "methods":
            plan = find_cheapest_split(delta, spread, pretraining or 1.0, finetuning or 1.0, level=self.level)
            if plan is None:
                return None
            hours = plan.cost if pretraining and finetuning else None
            return Remedy(pretrainings=plan.pretrainings, finetunings=plan.finetunings, hours=hours, unit=unit)
        if entry.evidence.claim == "checkpoint_and_method" or spread.finetuning is None:
            return None
        units = count_units(delta, spread.finetuning, level=self.level)
        hours = 2 * units * finetuning if units and finetuning else None
        return None if units is None else Remedy(pretrainings=1, finetunings=units, hours=hours, unit=unit)


Table = Mapping[str, Mapping[tuple[str, str, str], Summary]]


def _index(summaries: Sequence[Summary]) -> Table:
    table: dict[str, dict[tuple[str, str, str], Summary]] = {}
    for row in summaries:
        table.setdefault(row.backbone, {})[row.protocol, row.recipe, row.metric] = row
    return table


def _compare(first: str, second: str, table: Table, delta: float | None) -> Iterator[Comparison]:
    other = table.get(second, {})
    for key, row in table.get(first, {}).items():
        if row.metric in HEADLINE and key in other:
            yield Comparison(
                first=first,
                second=second,
                protocol=row.protocol,
                metric=row.metric,
                recipe=row.recipe,
                deviations=len(row.deviations),
                evidence=_weigh(row, other[key], delta),
            )


def _weigh(first: Summary, second: Summary, delta: float | None) -> Evidence:
    noise = None if first.deviations else published_noise(first.protocol, first.metric)
    width = delta if delta is not None else noise if noise is not None else DEFAULT_DELTA
    return weigh(first.sample, second.sample, published_std=noise, delta=width)


def _find_test_set(entry: Comparison, table: Table, draws: DrawsReader) -> Interval | None:
    """Return the paired bootstrap interval of the difference, averaged over runs; None where a run has no draws."""
    sides = []
    for name in (entry.first, entry.second):
        found = [draws(run).get(entry.metric) for run in table[name][entry.protocol, entry.recipe, entry.metric].runs]
        known = [one for one in found if one is not None]
        if len(known) < len(found) or len({(one.identity, len(one.values)) for one in known}) != 1:
            return None
        sides.append(mean_draws(known))
    if (sides[0].identity, len(sides[0].values)) != (sides[1].identity, len(sides[1].values)):
        return None
    interval = paired_interval(sides[0], sides[1])
    return interval if math.isfinite(interval.low + interval.high) else None
