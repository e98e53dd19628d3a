"""Write the control and the comparisons of a chain as sentences."""

from collections.abc import Mapping, Sequence

from tools.report.text.protocol_names import count_of, name_metric
from tools.report.text.wording import describe_measurement, name_sides, say_outcome, say_remedy
from transfer.results.comparison import Comparison, Control, Verdict
from transfer.results.evidence import Outcome
from transfer.results.summaries import Summary

ORDER: tuple[Outcome, ...] = ("better", "worse", "equivalent", "undecided", "too_few_runs")
NO_CONTROL = (
    "No control: the chain names no controls (floor and ceiling), so nothing shows that its measurements can "
    "distinguish a good backbone from a bad one."
)
ONE_PRETRAINING = "It says nothing about the methods: one pretraining run each."


def describe_control(control: Control | None) -> str:
    """Return whether the measurements passed their control, with the intervals of ceiling minus floor."""
    if control is None:
        return NO_CONTROL
    ceiling, floor = control.ceiling, control.floor
    if not control.comparisons:
        return f"The control cannot be evaluated: {ceiling} and {floor} share no protocol with results yet. No verdict."
    failed = [entry for entry in control.comparisons if entry.evidence.outcome != "better"]
    if not failed:
        where = "; ".join(map(describe_measurement, control.comparisons))
        return f"Control passed: {ceiling} is better than {floor} in {_all_of(len(control.comparisons))}: {where}."
    where = "; ".join(f"{describe_measurement(entry)}: {say_outcome(entry)}" for entry in failed)
    if control.passed is None:
        return f"The control cannot be evaluated yet: too few runs of {ceiling} or {floor}: {where}. No verdict there."
    rest = len(control.comparisons) - len(failed)
    if rest == 0:
        return f"The instrument did not pass its control: no verdict. {ceiling} is not shown to beat {floor}: {where}."
    part = _all_of(len(failed), len(control.comparisons))
    return (
        "The instrument did not pass its control everywhere: no verdict where it failed. "
        f"{ceiling} is not shown to beat {floor} in {part}: {where}."
    )


def write_headline(summaries: Sequence[Summary], verdict: Verdict) -> str:
    """Return the verdict on the first pair of the question in one sentence."""
    if not verdict.comparisons:
        return _lack_of_results(summaries)
    pair = group_by_pair(verdict)[0]
    known = [entry for entry in pair if not entry.withheld]
    if not known:
        failed = verdict.control is not None and verdict.control.passed is False
        return (
            f"No verdict: {'the instrument did not pass its control' if failed else 'the control is not measured yet'}."
        )
    return _sum_up(known)


def _sum_up(known: Sequence[Comparison]) -> str:
    first, second = name_sides(known)
    counts = {outcome: sum(entry.evidence.outcome == outcome for entry in known) for outcome in ORDER}
    number, rest = len(known), _list_rest(counts)
    better, worse = counts["better"], counts["worse"]
    if better and worse:
        where = f"{better} and worse in {worse} of {count_of(number, 'measurement')}"
        return f"Mixed: {first} is better than {second} in {where}{rest}."
    if better or worse:
        word, relation = ("Yes", "better") if better else ("No", "worse")
        return f"{word}: {first} is {relation} than {second} in {_all_of(better or worse, number)}{rest}."
    if counts["too_few_runs"] == number:
        return f"Not enough runs to tell whether {first} is better than {second}."
    if counts["equivalent"] == number:
        within = " or ".join(f"±{delta:g}" for delta in sorted({entry.evidence.delta for entry in known}))
        return f"Equivalent: {first} and {second} differ by less than {within} points in {_all_of(number)}."
    where = _all_of(counts["undecided"], number)
    return f"Undecided: {first} is not shown to be better or worse than {second} in {where}{rest}."


def write_verdict(summaries: Sequence[Summary], verdict: Verdict) -> list[str]:
    """Return one text per pair of the question; without a pair, one that says why."""
    return [describe_pair(pair) for pair in group_by_pair(verdict)] or [_lack_of_results(summaries)]


def group_by_pair(verdict: Verdict) -> list[list[Comparison]]:
    """Return the comparisons grouped by pair, in the order of the question."""
    pairs: dict[tuple[str, str], list[Comparison]] = {}
    for entry in verdict.comparisons:
        pairs.setdefault((entry.first, entry.second), []).append(entry)
    return list(pairs.values())


def describe_pair(pair: Sequence[Comparison]) -> str:
    """Return what all measurements say about one pair."""
    known = [entry for entry in pair if not entry.withheld]
    first, second = name_sides(known or pair)
    by_outcome = {outcome: [entry for entry in known if entry.evidence.outcome == outcome] for outcome in ORDER}
    parts = [
        f"{_say_of_pair(outcome, second)} in {'; '.join(map(describe_measurement, mine))}"
        for outcome, mine in by_outcome.items()
        if mine
    ]
    if withheld := [entry for entry in pair if entry.withheld]:
        where = ", ".join(dict.fromkeys(entry.protocol for entry in withheld))
        parts.append(f"has no verdict against {second} in {where}, where the control did not pass")
    sentences = [f"{_capitalise(first)} {'. It '.join(parts)}."]
    if any(entry.evidence.claim in ("checkpoints", "two_runs") for entry in known):
        sentences.append(ONE_PRETRAINING)
    if any(entry.evidence.claim == "two_runs" for entry in known):
        sentences.append("One run on each side; the interval comes from the published spread.")
    sentences += dict.fromkeys(_say_remedy(entry) for entry in known if entry.evidence.outcome == "undecided")
    sentences += dict.fromkeys(
        f"{_capitalise(entry.evidence.reason)}." for entry in known if entry.evidence.outcome == "too_few_runs"
    )
    missing = sum(sample.missing for entry in known[:1] for sample in (entry.evidence.first, entry.evidence.second))
    if missing:
        sentences.append(f"Omitted: {count_of(missing, 'run')} without a value.")
    return " ".join(sentences)


def _say_remedy(entry: Comparison) -> str:
    if entry.remedy is None:
        text = say_remedy(entry)
        return f"{text[:1].upper()}{text[1:]}."
    return f"In {entry.protocol} {name_metric(entry.metric)}, {say_remedy(entry)}."


def _say_of_pair(outcome: Outcome, second: str) -> str:
    return {
        "better": f"is better than {second}",
        "worse": f"is worse than {second}",
        "equivalent": f"is equivalent to {second}",
        "undecided": f"is not shown to be better or worse than {second}",
        "too_few_runs": f"cannot be compared with {second} yet",
    }[outcome]


def _list_rest(counts: Mapping[Outcome, int]) -> str:
    """Return the counts of the other outcomes, to append to a sentence about the main one."""
    named: tuple[tuple[Outcome, str], ...] = (("equivalent", "equivalent"), ("undecided", "undecided"))
    found = [f"{text} in {counts[outcome]}" for outcome, text in named if counts[outcome]]
    if counts["too_few_runs"]:
        found.append(f"not enough runs in {counts['too_few_runs']}")
    if not counts["better"] and not counts["worse"]:
        found = [text for text in found if not text.startswith("undecided")]  # the sentence already says so
    return f"; {', '.join(found)}" if found else ""


def _lack_of_results(summaries: Sequence[Summary]) -> str:
    if not summaries:
        return "No stage has a result yet."
    names = list(dict.fromkeys(row.backbone for row in summaries))
    if len(names) == 1:
        return f"Only {names[0]} has results; a verdict needs a second backbone."
    return (
        f"{', '.join(names[:-1])} and {names[-1]} have results, but no two of the compared backbones share a protocol "
        "with the same deviations yet."
    )


def _all_of(part: int, whole: int | None = None) -> str:
    whole = part if whole is None else whole
    if part < whole:
        return f"{part} of {count_of(whole, 'measurement')}"
    return "the one measurement" if whole == 1 else f"all {count_of(whole, 'measurement')}"


def _capitalise(text: str) -> str:
    return text[:1].upper() + text[1:] if text.startswith("this ") else text
