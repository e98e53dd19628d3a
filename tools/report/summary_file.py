"""The content of summary.json, the machine-readable report; docs/summary.md describes every key."""

from collections.abc import Mapping, Sequence
from typing import Any

from tools.report.verdict import describe_control, write_headline, write_verdict
from transfer.metrics.bootstrap import Interval
from transfer.results.comparison import Comparison, Control, Remedy, Verdict
from transfer.results.evidence import Sample
from transfer.results.summaries import Summary

VERSION = 2
"""Version of the format; version 1 had rows per pretraining seed and no comparisons."""


def describe_report(summaries: Sequence[Summary], verdict: Verdict) -> dict[str, Any]:
    """Return rows, comparisons, control, and the sentences about them."""
    return {
        "version": VERSION,
        "rows": [to_row(row) for row in summaries],
        "comparisons": [to_comparison(entry) for entry in verdict.comparisons],
        "control": to_control(verdict.control),
        "headline": write_headline(summaries, verdict),
        "control_sentence": describe_control(verdict.control),
        "verdict": write_verdict(summaries, verdict),
    }


def to_row(row: Summary) -> dict[str, Any]:
    """Return one metric of one method under one protocol."""
    low, high = row.interval or (None, None)
    return {
        "backbone": row.backbone,
        "protocol": row.protocol,
        "metric": row.metric,
        "mean": row.mean,
        "low": low,
        "high": high,
        "std": row.std,
        "n": row.n,
        "values": list(row.values),
        "pretrainings": list(row.pretrainings),
        "seeds": list(row.seeds),
        "missing": row.sample.missing,
        "deviations": [dict(entry) for entry in row.deviations],
    }


def to_comparison(entry: Comparison) -> dict[str, Any]:
    """Return one comparison."""
    evidence = entry.evidence
    return {
        "first": entry.first,
        "second": entry.second,
        "protocol": entry.protocol,
        "metric": entry.metric,
        "difference": evidence.difference,
        "low": evidence.low,
        "high": evidence.high,
        "p": evidence.p,
        "p_adjusted": evidence.p_adjusted,
        "outcome": evidence.outcome,
        "units": {"first": to_units(evidence.first), "second": to_units(evidence.second)},
        "claim": evidence.claim,
        "delta": evidence.delta,
        "reason": evidence.reason,
        "deviations": entry.deviations,
        "withheld": entry.withheld,
        "test_set": to_interval(entry.test_set),
        "remedy": to_remedy(entry.remedy),
    }


def to_control(control: Control | None) -> dict[str, Any]:
    """Return the control; without one, its values are null or empty."""
    if control is None:
        return {"passed": None, "floor": None, "ceiling": None, "comparisons": []}
    comparisons = [to_comparison(entry) for entry in control.comparisons]
    return {"passed": control.passed, "floor": control.floor, "ceiling": control.ceiling, "comparisons": comparisons}


def to_units(sample: Sample) -> dict[str, Any]:
    """Return the numbers of pretrainings and of fine-tunings on one side."""
    return {"pretrainings": sample.pretrainings, "finetunings": list(sample.finetunings)}


def to_interval(interval: Interval | None) -> Mapping[str, Any] | None:
    """Return the interval over test sets, or None."""
    if interval is None:
        return None
    return {"low": interval.low, "high": interval.high, "draws": interval.draws, "images": interval.images}


def to_remedy(remedy: Remedy | None) -> Mapping[str, Any] | None:
    """Return the runs needed to decide a comparison and their cost, or None."""
    if remedy is None:
        return None
    return {
        "pretrainings": remedy.pretrainings,
        "finetunings": remedy.finetunings,
        "hours": remedy.hours,
        "unit": remedy.unit,
    }
