"""The lines of the metrics log: when they are written, their values, and equal keys in all outputs."""

import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch

from pretrain.config import DataConfig, PretrainConfig, RunConfig
from pretrain.loss import ContrastiveOutput
from pretrain.monitoring.metrics_log import MetricsLog


def make_config(out: Path, **run: Any) -> PretrainConfig:
    return PretrainConfig(run=RunConfig(out=str(out), batch_size=4, log_every_steps=2, **run))


def take_steps(config: PretrainConfig, first: int, last: int, steps: int = 5) -> None:
    with MetricsLog(config, first_step=first, steps=steps, steps_per_epoch=steps) as log:
        for step in range(first + 1, last + 1):
            log.note_wait(0.001)
            hits = torch.tensor([True, True, True, False]), torch.tensor([True, False, False, False])
            log.note_step(step, ContrastiveOutput(torch.tensor(float(step)), *hits), lr=0.1)


def read_lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_line_is_the_mean_since_the_last_one_and_the_last_step_has_one(tmp_path: Path) -> None:
    take_steps(make_config(tmp_path), 0, 5)
    lines = read_lines(tmp_path)
    assert [(line["step"], line["loss"]) for line in lines] == [(2, 1.5), (4, 3.5), (5, 5.0)]
    assert {line["accuracy"] for line in lines} == {75.0}
    assert {line["accuracy_with_mixes"] for line in lines} == {25.0}
    assert [line["queue_age_steps"] for line in lines] == [1.0, 2.0, 2.5], "the mean age is half the maximum"
    assert all(line["images_per_s"] > 0 and 0 < line["data_wait"] <= 1 for line in lines)
    progress = json.loads((tmp_path / "progress.json").read_text())
    assert (progress["step"], progress["eta_s"]) == (5, 0)


def test_resume_removes_lines_after_the_checkpoint(tmp_path: Path) -> None:
    take_steps(make_config(tmp_path), 0, 4)
    with (tmp_path / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 5, "lo')
    take_steps(make_config(tmp_path), 2, 5)  # killed after 4, with a checkpoint of step 2
    assert [line["step"] for line in read_lines(tmp_path)] == [2, 4, 5]


def test_wandb_gets_the_keys_of_the_lines_and_one_run_after_a_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts: list[dict[str, Any]] = []
    logged: list[tuple[int, dict[str, Any]]] = []
    service = types.SimpleNamespace(  # the package is optional and not installed for tests
        log=lambda values, step: logged.append((step, values)), finish=lambda exit_code: None
    )
    package = types.SimpleNamespace(init=lambda **options: starts.append(options) or service)
    monkeypatch.setitem(sys.modules, "wandb", package)
    take_steps(make_config(tmp_path, wandb=True), 0, 2)
    take_steps(make_config(tmp_path, wandb=True), 2, 5)
    assert [step for step, _ in logged] == [2, 4, 5]
    for (_, values), line in zip(logged, read_lines(tmp_path), strict=True):
        assert values.keys() == line.keys() - {"step", "epoch"}
    assert starts[0]["id"] == starts[1]["id"] and starts[0]["resume"] == "allow"


def test_missing_wandb_is_an_error_that_names_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match=r"run\.wandb=true needs the package wandb"):
        take_steps(make_config(tmp_path, wandb=True), 0, 1)


def test_replaced_images_are_counted_and_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = PretrainConfig(data=DataConfig(skip_broken=True), run=RunConfig(out=str(tmp_path), log_every_steps=1))
    hits = (torch.ones(2, dtype=torch.bool),) * 2
    with MetricsLog(config, first_step=0, steps=3, steps_per_epoch=3) as log:
        for step, broken in enumerate((0, 2, 1), start=1):
            log.note_broken(broken)
            log.note_step(step, ContrastiveOutput(torch.tensor(1.0), *hits), lr=0.1)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line.get("broken_images") for line in lines] == [None, 2, 3]
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == 1
    assert "2 unreadable images of a batch were replaced" in warnings[0]
