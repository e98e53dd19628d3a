"""Verdicts in sentences and tables: control, outcomes, and bold for better than every other row."""

import hashlib
from collections.abc import Sequence

import numpy as np
import pytest

from tools.report.tables import Report, build_tables
from tools.report.text.wording import say_outcome, say_test_set
from tools.report.verdict import describe_control, write_headline, write_verdict
from transfer.metrics.bootstrap import MetricDraws
from transfer.results.comparison import Costs, DrawsReader, Verdict, reach_verdict
from transfer.results.question import Controls, Question
from transfer.results.run_result import RunResult
from transfer.results.summaries import Summary, summarise

VOC, DIGITS = "voc-c4-24k@moco", "voc-c4-digits@moco"
FLOOR_AND_CEILING = Controls(floor="random", ceiling="supervised")


def runs(backbone: str, values: list[float], protocol: str = DIGITS, **rest: object) -> list[RunResult]:
    return [
        RunResult(
            backbone=backbone,
            protocol=protocol,
            seed=seed,
            metrics={"AP": value},
            weights_sha256=hashlib.sha256(backbone.encode()).hexdigest(),
            commit="c",
            machine={},
            **rest,  # type: ignore[arg-type]
        )
        for seed, value in enumerate(values)
    ]


def method(name: str, *pretrainings: list[float], protocol: str = DIGITS) -> list[RunResult]:
    return [run for seed, values in enumerate(pretrainings) for run in runs(f"{name}@{seed}", values, protocol)]


def report(results: list[RunResult], question: Question | None = None, draws: DrawsReader | None = None) -> Report:
    summaries = summarise(results)
    verdict = reach_verdict(summaries, question or Question(), draws)
    return Report(summaries=summaries, verdict=verdict, tables=build_tables(summaries, verdict))


def headline(results: list[RunResult], question: Question | None = None) -> str:
    found = report(results, question)
    return write_headline(found.summaries, found.verdict)


def test_methods_are_named_where_pretrainings_are_replicated() -> None:
    results = method("moco", [30.0], [30.2], [30.1]) + method("mochi", [32.0], [32.2], [32.1])
    assert headline(results) == "Yes: mochi is better than moco in the one measurement."
    (sentence,) = write_verdict(*_parts(results))
    assert sentence == (
        "mochi is better than moco in voc-c4-digits@moco AP (+2.0, 95 % interval +1.8 to +2.2, adjusted p < 0.001)."
    )


def test_one_pretraining_each_is_a_claim_about_checkpoints() -> None:
    results = runs("moco", [30.0, 30.2, 30.1]) + runs("mochi", [32.0, 32.2, 32.1])
    assert headline(results) == "Yes: this mochi checkpoint is better than this moco checkpoint in the one measurement."
    (sentence,) = write_verdict(*_parts(results))
    assert sentence.endswith("It says nothing about the methods: one pretraining run each.")


def test_pretraining_seeds_of_one_method_are_not_compared() -> None:
    """The seeds of mochi share one row and are compared only with other methods."""
    found = report(method("moco", [30.0], [30.2]) + method("mochi", [29.0], [31.0], [33.0]))
    assert [row.backbone for row in found.tables[0].rows] == ["moco", "mochi"]
    assert [(entry.first, entry.second) for entry in found.verdict.comparisons] == [("mochi", "moco")]
    assert found.tables[0].rows[1].units == "3 pretrainings × 1 fine-tuning"


@pytest.mark.parametrize(
    ("results", "sentence"),
    [
        ([], "No stage has a result yet."),
        (runs("mochi", [1.0]), "Only mochi has results; a verdict needs a second backbone."),
        (
            runs("mochi", [1.0]) + runs("moco", [1.0], VOC),
            "mochi and moco have results, but no two of the compared backbones share a protocol with the same "
            "deviations yet.",
        ),
        (
            runs("random", [20.0]) + runs("mochi", [30.0]),
            "Not enough runs to tell whether mochi is better than random.",
        ),
        (
            method("moco", [30.0], [30.1]) + method("mochi", [10.0], [10.1]),
            "No: mochi is worse than moco in the one measurement.",
        ),
        (
            method("moco", [30.0], [31.1]) + method("mochi", [30.5], [31.5]),
            "Undecided: mochi is not shown to be better or worse than moco in the one measurement.",
        ),
        (
            method("moco", [30.0], [30.1], [30.05]) + method("mochi", [30.0], [30.1], [30.06]),
            "Equivalent: mochi and moco differ by less than ±0.5 points in the one measurement.",
        ),
        (
            method("a", [1.0], [1.1], protocol="knn-digits")
            + method("a", [1.0], [1.1])
            + method("b", [9.0], [9.1], protocol="knn-digits")
            + method("b", [1.5], [0.1]),
            "Yes: b is better than a in 1 of 2 measurements; undecided in 1.",
        ),
        (
            method("a", [1.0], [1.1], protocol="knn-digits")
            + method("a", [9.0], [9.1])
            + method("b", [9.0], [9.1], protocol="knn-digits")
            + method("b", [1.0], [1.1]),
            "Mixed: b is better than a in 1 and worse in 1 of 2 measurements.",
        ),
    ],
)
def test_headline_says_in_one_sentence_what_the_runs_allow(results: list[RunResult], sentence: str) -> None:
    assert headline(results) == sentence
    assert "no difference" not in sentence.lower()


def test_comparisons_are_the_named_ones_in_their_order() -> None:
    results = [run for name in ("a", "b", "c") for run in runs(name, [1.0, 1.1])]
    found = report(results, Question(compare=(("c", "b"), ("a", "c"), ("c", "b"))))
    assert [(entry.first, entry.second) for entry in found.verdict.comparisons] == [("c", "b"), ("a", "c")]
    found = report(results, Question(baseline="b"))
    assert [(entry.first, entry.second) for entry in found.verdict.comparisons] == [("a", "b"), ("c", "b")]


def test_family_is_all_headline_measurements_of_all_comparisons() -> None:
    """A comparison with p = .03 is a finding on its own, but not among ten without a difference."""
    base = runs("base", [50.0, 50.4, 49.6])
    better = runs("better", [51.0, 51.4, 50.6])
    assert headline(base + better).startswith("Yes")
    others = [run for number in range(9) for run in runs(f"x{number}", [50.1, 50.5, 49.8])]
    found = report(base + better + others)
    assert found.verdict.family == 10
    assert found.verdict.comparisons[0].evidence.outcome == "undecided"


def test_passed_control_is_reported_with_its_interval() -> None:
    results = method("random", [5.0], [5.2]) + method("supervised", [50.0], [50.3]) + method("mochi", [55.0], [55.3])
    found = report(results, Question(compare=(("mochi", "random"),), controls=FLOOR_AND_CEILING))
    assert found.verdict.control is not None
    assert found.verdict.control.passed is True
    assert describe_control(found.verdict.control).startswith(
        "Control passed: supervised is better than random in the one measurement: voc-c4-digits@moco AP (+45.0, 95 % "
    )
    assert not any(entry.withheld for entry in found.verdict.comparisons)


def test_instrument_that_fails_its_control_gives_no_verdict() -> None:
    """A clear difference elsewhere does not count: supervised does not beat random."""
    results = method("random", [5.0], [5.2]) + method("supervised", [5.1], [5.3]) + method("mochi", [55.0], [55.3])
    found = report(results, Question(compare=(("mochi", "random"),), controls=FLOOR_AND_CEILING))
    assert found.verdict.control is not None
    assert found.verdict.control.passed is False
    assert describe_control(found.verdict.control).startswith(
        "The instrument did not pass its control: no verdict. supervised is not shown to beat random"
    )
    assert write_headline(found.summaries, found.verdict) == "No verdict: the instrument did not pass its control."
    (entry,) = found.verdict.comparisons
    assert entry.withheld
    assert say_outcome(entry) == "no verdict (better)"


def test_control_withholds_the_protocols_that_failed_it_alone() -> None:
    good = method("random", [5.0], [5.2]) + method("supervised", [50.0], [50.3]) + method("mochi", [55.0], [55.3])
    bad = [
        *method("random", [5.0], [5.2], protocol="knn-digits"),
        *method("supervised", [5.1], [5.2], protocol="knn-digits"),
        *method("mochi", [9.0], [9.3], protocol="knn-digits"),
    ]
    found = report(good + bad, Question(compare=(("mochi", "random"),), controls=FLOOR_AND_CEILING))
    assert {entry.protocol: entry.withheld for entry in found.verdict.comparisons} == {
        DIGITS: False,
        "knn-digits": True,
    }
    assert "no verdict where it failed" in describe_control(found.verdict.control)
    assert write_headline(found.summaries, found.verdict) == "Yes: mochi is better than random in the one measurement."
    (sentence,) = write_verdict(found.summaries, found.verdict)
    assert "in knn-digits, where the control did not pass" in sentence


def test_control_does_not_depend_on_the_number_of_comparisons() -> None:
    results = method("random", [5.0], [7.0]) + method("supervised", [50.0], [53.0])
    results += [run for number in range(20) for run in method(f"m{number}", [55.0], [55.3])]
    pairs = tuple((f"m{number}", "random") for number in range(20))
    alone = report(results, Question(compare=pairs[:1], controls=FLOOR_AND_CEILING)).verdict.control
    among = report(results, Question(compare=pairs, controls=FLOOR_AND_CEILING)).verdict.control
    assert alone is not None
    assert alone == among
    assert alone.passed is True


def test_control_with_too_few_runs_is_not_evaluated() -> None:
    results = runs("random", [5.0]) + runs("supervised", [50.0]) + runs("mochi", [55.0])
    found = report(results, Question(controls=FLOOR_AND_CEILING))
    assert found.verdict.control is not None
    assert found.verdict.control.passed is None
    assert "cannot be evaluated yet: too few runs" in describe_control(found.verdict.control)
    assert "cannot be evaluated: supervised and random" in describe_control(
        report(runs("mochi", [1.0]), Question(controls=FLOOR_AND_CEILING)).verdict.control
    )
    assert describe_control(None).startswith("No control:")


def test_control_without_results_leaves_no_verdict_yet() -> None:
    results = method("moco", [5.0], [5.2]) + method("mochi", [55.0], [55.3])
    found = report(results, Question(controls=FLOOR_AND_CEILING))
    assert found.verdict.control is not None
    assert found.verdict.control.passed is None
    assert all(entry.withheld for entry in found.verdict.comparisons)
    assert write_headline(found.summaries, found.verdict) == "No verdict: the control is not measured yet."


def test_bold_is_better_than_every_other_row() -> None:
    def bold(results: list[RunResult], question: Question | None = None) -> list[str]:
        table = report(results, question).tables[0]
        return [row.backbone for row in table.rows for cell in row.cells if cell.bold]

    clear = method("a", [30.0], [30.1]) + method("b", [20.0], [20.1]) + method("c", [10.0], [10.1])
    assert bold(clear) == ["a"]
    assert bold(clear, Question(controls=Controls(floor="c", ceiling="b"))) == ["a"]
    assert bold(clear, Question(controls=Controls(floor="b", ceiling="c"))) == []
    close = method("a", [30.0], [30.1]) + method("b", [29.9], [30.1]) + method("c", [10.0], [10.1])
    assert bold(close) == []
    assert bold(runs("a", [30.0]) + runs("b", [10.0])) == []
    assert bold(runs("a", [30.0, 30.1])) == []


def test_runs_with_deviations_stand_apart_and_never_beside_published_rows() -> None:
    deviation = [{"key": "SOLVER.MAX_ITER", "expected": 24000, "got": 100}]
    results = runs("mochi", [57.0, 57.2], VOC) + runs("moco", [56.0, 56.1], VOC)
    results += runs("mochi", [40.0], VOC, deviations=deviation) + runs("moco", [39.0], VOC, deviations=deviation)
    whole, cut = report(results).tables
    assert whole.title == "VOC detection, C4, 24k steps (voc-c4-24k@moco)"
    assert cut.title == "VOC detection, C4, 24k steps (voc-c4-24k@moco), with 1 deviation"
    assert any("as reported" in row.note for row in whole.published)
    assert cut.published == []
    assert cut.deviations == ["SOLVER.MAX_ITER: 100 (protocol: 24000)"]
    by_recipe = {entry.deviations: entry.evidence for entry in report(results).verdict.comparisons}
    assert by_recipe[1].claim == "none"  # the published spread does not apply to deviating runs


def test_published_spread_is_used_for_two_runs_at_full_size() -> None:
    found = report(runs("moco", [56.0], VOC) + runs("mochi", [57.0], VOC))
    assert found.verdict.comparisons[0].evidence.claim == "two_runs"
    assert found.verdict.comparisons[0].evidence.outcome == "better"
    assert "interval comes from the published spread" in write_verdict(found.summaries, found.verdict)[0]


def test_published_rows_show_their_spread_and_the_distance_to_a_chosen_row() -> None:
    summaries = summarise(runs("moco", [56.0, 56.2], VOC) + runs("mochi", [57.4, 57.6], VOC))
    verdict = reach_verdict(summaries, Question())
    (table,) = build_tables(summaries, verdict, "mochi")
    row = next(row for row in table.published if row.backbone == "MoCo v2, 200 epochs")
    assert (row.cells[0].text, row.differences[0]) == ("57.0 ± 0.2", pytest.approx(-0.5))
    (table,) = build_tables(summaries, verdict, "nothing")
    assert table.chosen == "moco"
    assert build_tables(summarise(runs("moco", [1.0])), verdict)[0].published == []


def test_delta_is_the_published_noise_or_half_a_point_unless_given() -> None:
    def delta(protocol: str, question: Question) -> float:
        results = runs("a", [50.0, 50.1], protocol) + runs("b", [50.0, 50.2], protocol)
        return report(results, question).verdict.comparisons[0].evidence.delta

    assert delta(VOC, Question()) == 0.2
    assert delta(DIGITS, Question()) == 0.5
    assert delta(VOC, Question(delta=0.7)) == 0.7


def test_undecided_comparison_states_the_runs_needed_and_their_cost() -> None:
    results = method("a", [30.0, 30.2], [31.1, 31.0]) + method("b", [30.5, 30.6], [31.5, 31.3])
    summaries = summarise(results)
    costs = Costs(pretraining=10.0, finetuning={DIGITS: 1.0})
    (entry,) = reach_verdict(summaries, Question(), costs=costs).comparisons
    remedy = entry.remedy
    assert remedy is not None
    assert remedy.hours == 2 * remedy.pretrainings * (10.0 + remedy.finetunings)
    assert reach_verdict(summaries, Question()).comparisons[0].remedy.hours is None  # type: ignore[union-attr]
    (sentence,) = write_verdict(summaries, reach_verdict(summaries, Question(), costs=costs))
    assert f"{remedy.pretrainings} pretrainings × {remedy.finetunings} fine-tuning" in sentence
    assert "would show a difference of 0.5 points with 80 % power" in sentence
    assert "GPU-hours in all" in sentence


def test_test_set_interval_is_paired_and_unknown_where_a_run_has_no_draws() -> None:
    shared = np.random.default_rng(0).normal(0, 5, 1000)
    results = runs("a", [50.0, 50.2]) + runs("b", [51.0, 51.2])

    def draws(key: tuple[str, str, str, int]) -> dict[str, MetricDraws]:
        level = {"a": 50.0, "b": 51.0}[key[0]] + 0.2 * key[3]
        return {"AP": MetricDraws(identity="x", images=4952, value=level, values=level + shared)}

    (entry,) = report(results, draws=draws).verdict.comparisons
    assert entry.test_set is not None
    assert (entry.test_set.low, entry.test_set.high) == (pytest.approx(1.0), pytest.approx(1.0))
    assert say_test_set(entry) == "+1.0 to +1.0 (4,952 images)"
    missing = report(results, draws=lambda key: {} if key[0] == "a" and key[3] else draws(key)).verdict.comparisons[0]
    assert missing.test_set is None
    assert say_test_set(missing) == "unknown"


def test_runs_on_other_test_images_have_no_paired_interval() -> None:
    def draws(key: tuple[str, str, str, int]) -> dict[str, MetricDraws]:
        return {"AP": MetricDraws(identity=key[0], images=9, value=1.0, values=np.ones(10))}

    (entry,) = report(runs("a", [1.0, 2.0]) + runs("b", [1.0, 2.0]), draws=draws).verdict.comparisons
    assert entry.test_set is None


def _parts(results: list[RunResult]) -> tuple[Sequence[Summary], Verdict]:
    found = report(results)
    return found.summaries, found.verdict
