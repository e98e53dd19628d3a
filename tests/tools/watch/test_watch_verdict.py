"""The verdict on the page of a running chain agrees with the report that wrote summary.json."""

import json
from pathlib import Path
from typing import Any

import pytest

from tools.report.summary_file import VERSION, describe_report
from tools.watch.snapshot import SUMMARY_VERSION, read_verdict
from transfer.results.comparison import reach_verdict
from transfer.results.question import Controls, Question
from transfer.results.run_result import RunResult
from transfer.results.summaries import summarise


def write_summary(folder: Path, levels: dict[str, float], controls: Controls) -> dict[str, Any]:
    """Write summary.json as tools.write_report does, for three pretrainings per method."""
    results = [
        RunResult(
            backbone=f"{name}@{seed}", protocol="voc", seed=0, metrics={"AP": level + seed / 10}, commit="c", machine={}
        )
        for name, level in levels.items()
        for seed in range(3)
    ]
    summaries = summarise(results)
    verdict = reach_verdict(summaries, Question(compare=(("mochi", "moco"),), controls=controls))
    (folder / "report").mkdir()
    (folder / "report" / "summary.json").write_text(json.dumps(describe_report(summaries, verdict)))
    return read_verdict(folder)


def test_version_that_is_read_is_the_version_that_is_written() -> None:
    assert SUMMARY_VERSION == VERSION


def test_better_method_is_marked_beside_a_passed_control(tmp_path: Path) -> None:
    levels = {"random": 10.0, "moco": 30.0, "mochi": 35.0, "supervised": 50.0}
    shown = write_summary(tmp_path, levels, Controls(floor="random", ceiling="supervised"))
    assert (shown["passed"], shown["control"].partition(":")[0]) == (True, "Control passed")
    assert shown["headline"].startswith("Yes: mochi is better than moco")
    row = next(row for row in shown["comparisons"] if (row["first"], row["second"]) == ("mochi", "moco"))
    assert (row["outcome"], row["mark"]) == ("better", "better")
    assert row["low"] < row["difference"] < row["high"]


def test_withheld_comparison_is_no_verdict_and_has_no_mark(tmp_path: Path) -> None:
    levels = {"random": 50.0, "moco": 30.0, "mochi": 35.0, "supervised": 10.0}
    shown = write_summary(tmp_path, levels, Controls(floor="random", ceiling="supervised"))
    assert shown["passed"] is False
    assert shown["comparisons"]
    assert {(row["outcome"], row["mark"]) for row in shown["comparisons"]} == {("no verdict (better)", "")}


def test_chain_without_controls_says_so(tmp_path: Path) -> None:
    shown = write_summary(tmp_path, {"moco": 30.0, "mochi": 35.0}, Controls())
    assert shown["passed"] is None
    assert "no controls" in shown["control"]
    assert [row["mark"] for row in shown["comparisons"]] == ["better"]


@pytest.mark.parametrize("content", [{"version": 1, "comparisons": []}, {"comparisons": []}, {"version": 2}, {}])
def test_other_version_counts_as_no_report(tmp_path: Path, content: dict[str, Any]) -> None:
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "summary.json").write_text(json.dumps(content))
    assert read_verdict(tmp_path) == {}
