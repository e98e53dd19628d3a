"""Wording of one comparison: measurement, outcome, scope, replication, and the runs needed to decide it."""

from collections.abc import Sequence

from tools.report.text.numbers import find_decimals, write_difference, write_p, write_value
from tools.report.text.protocol_names import count_of, name_metric
from transfer.results.comparison import Comparison
from transfer.results.evidence import Evidence, Sample


def describe_measurement(entry: Comparison) -> str:
    """Return e.g. "voc-c4-24k@moco AP (+1.20, 95 % interval 0.80 to 1.60, p = 0.004)"."""
    evidence = entry.evidence
    decimals = find_decimals([evidence.difference, evidence.low, evidence.high])
    parts = [write_difference(evidence.difference, decimals)]
    if evidence.low is not None:
        low, high = (write_difference(value, decimals) for value in (evidence.low, evidence.high))
        p = write_p(evidence.p_adjusted)
        parts += [f"95 % interval {low} to {high}", f"adjusted p {p if p.startswith('<') else '= ' + p}"]
    deviations = f" with {count_of(entry.deviations, 'deviation')}" if entry.deviations else ""
    return f"{entry.protocol}{deviations} {name_metric(entry.metric)} ({', '.join(parts)})"


def say_outcome(entry: Comparison) -> str:
    """Return the outcome in words, for a table's cell."""
    words = {"too_few_runs": "not enough runs to tell", "equivalent": f"equivalent within ±{entry.evidence.delta:g}"}
    text = words.get(entry.evidence.outcome, entry.evidence.outcome)
    return f"no verdict ({text})" if entry.withheld else text


def say_claim(evidence: Evidence) -> str:
    """Return what a comparison applies to."""
    return {
        "methods": "the methods",
        "checkpoints": "these two checkpoints, not the methods",
        "checkpoint_and_method": "one checkpoint and a method",
        "two_runs": "two runs, by the published spread",
        "none": "–",
    }[evidence.claim]


def say_units(sample: Sample) -> str:
    """Return e.g. "3 pretrainings × 2 fine-tunings"."""
    each = _say_finetunings(sample)
    noun = "fine-tuning" if each == "1" else "fine-tunings"
    return f"{count_of(sample.pretrainings, 'pretraining')} × {each} {noun}"


def count_units(sample: Sample) -> str:
    """Return e.g. "3 × 2": pretrainings × fine-tunings per pretraining."""
    return f"{sample.pretrainings} × {_say_finetunings(sample)}"


def _say_finetunings(sample: Sample) -> str:
    counts = sorted(set(sample.finetunings))
    return f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else str(counts[0])


def say_test_set(entry: Comparison) -> str:
    """Return the interval over test sets of this size; "unknown" if a result has no bootstrap draws."""
    if entry.test_set is None:
        return "unknown"
    decimals = find_decimals([entry.test_set.low, entry.test_set.high])
    low, high = (write_difference(value, decimals) for value in (entry.test_set.low, entry.test_set.high))
    return f"{low} to {high} ({entry.test_set.images:,} images)"


def say_remedy(entry: Comparison) -> str:
    """Return the runs needed to decide a comparison, as far as they are known."""
    remedy, evidence = entry.remedy, entry.evidence
    if evidence.claim == "checkpoint_and_method":
        lone = entry.first if evidence.first.pretrainings == 1 else entry.second
        return f"comparing the methods needs more pretrainings of {lone}"
    if remedy is None:
        return f"the number of runs that would show a difference of {evidence.delta:g} points is unknown"
    runs = count_of(remedy.finetunings, "fine-tuning")
    if remedy.pretrainings > 1:
        runs = f"{count_of(remedy.pretrainings, 'pretraining')} × {runs}"
    hours = f", {write_value(remedy.hours)} {remedy.unit} in all" if remedy.hours is not None else ""
    return f"{runs} on each side would show a difference of {evidence.delta:g} points with 80 % power{hours}"


def name_sides(pair: Sequence[Comparison]) -> tuple[str, str]:
    """Return the names of the two sides: the method, or "this NAME checkpoint" if it has one pretraining."""
    claimed = [entry.evidence for entry in pair if entry.evidence.claim != "none"]
    sides = []
    for name, side in ((pair[0].first, "first"), (pair[0].second, "second")):
        single = any(getattr(evidence, side).pretrainings == 1 for evidence in claimed)
        sides.append(f"this {name} checkpoint" if single else name)
    return sides[0], sides[1]
