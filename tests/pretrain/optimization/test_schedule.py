"""Learning rates are pure functions of training progress."""

import math

import pytest

from pretrain.config import OptimizerConfig
from pretrain.optimization.schedule import build_schedule, find_rate


def rate(settings: OptimizerConfig, step: int, steps: int = 100, epochs: int = 10, batch: int = 256) -> float:
    return find_rate(build_schedule(settings, batch), settings, step=step, steps=steps, epochs=epochs)


def test_cosine_changes_per_epoch_as_in_the_reference() -> None:
    settings = OptimizerConfig(lr=0.03)
    assert rate(settings, 0) == rate(settings, 9) == 0.03
    assert rate(settings, 55) == pytest.approx(0.03 * 0.5 * (1 + math.cos(math.pi * 5 / 10)))  # main_moco.py


def test_per_step_changes_at_every_step() -> None:
    settings = OptimizerConfig(lr=0.03, per_step=True)
    assert rate(settings, 55) == pytest.approx(0.03 * 0.5 * (1 + math.cos(math.pi * 0.55)))


def test_step_schedule_drops_at_120_and_160_of_200() -> None:
    settings = OptimizerConfig(lr=0.03, schedule="step", milestones=(0.6, 0.8))
    rates = [rate(settings, epoch * 5, steps=1000, epochs=200) for epoch in (0, 119, 120, 159, 160, 199)]
    assert rates == pytest.approx([0.03, 0.03, 0.003, 0.003, 0.0003, 0.0003])


def test_linear_rule_scales_with_the_batch() -> None:
    assert rate(OptimizerConfig(lr=0.03, lr_rule="linear"), 0, batch=1024) == pytest.approx(0.12)


def test_root_rule_scales_with_the_root_of_the_batch() -> None:
    settings = OptimizerConfig(lr=1e-3, lr_rule="sqrt", lr_batch=64)
    assert rate(settings, 0, batch=256) == pytest.approx(2e-3)
    assert rate(settings, 0, batch=16) == pytest.approx(5e-4)


def test_warm_up_rises_linearly_and_the_cosine_spans_the_rest() -> None:
    settings = OptimizerConfig(lr=0.4, per_step=True, warmup_steps=20)
    assert [rate(settings, step) for step in (0, 9, 19, 20)] == pytest.approx([0.02, 0.2, 0.4, 0.4])
    assert rate(settings, 60) == pytest.approx(0.4 * 0.5 * (1 + math.cos(math.pi * 40 / 80)))
    assert rate(settings, 99) == pytest.approx(0.4 * 0.5 * (1 + math.cos(math.pi * 79 / 80)))


def test_warm_up_scales_the_rates_of_the_reference_per_epoch() -> None:
    settings = OptimizerConfig(lr=0.4, warmup_steps=20)
    assert rate(settings, 4) == pytest.approx(0.1)
    assert rate(settings, 15) == pytest.approx(0.8 * 0.4 * 0.5 * (1 + math.cos(math.pi * 1 / 10)))
    assert rate(settings, 55) == rate(OptimizerConfig(lr=0.4), 55)


def test_warm_up_does_not_shift_the_drops_of_a_step_schedule() -> None:
    settings = OptimizerConfig(lr=1.0, schedule="step", per_step=True, warmup_steps=10)
    assert [rate(settings, step) for step in (4, 10, 59, 60, 80)] == pytest.approx([0.5, 1, 1, 0.1, 0.01])


def test_linear_schedule_falls_to_zero() -> None:
    settings = OptimizerConfig(lr=0.4, schedule="linear", per_step=True)
    assert [rate(settings, step) for step in (0, 50, 75)] == pytest.approx([0.4, 0.2, 0.1])


@pytest.mark.parametrize("warmup", [99, 100, 1000])
def test_warm_up_as_long_as_the_run_does_not_divide_by_zero(warmup: int) -> None:
    settings = OptimizerConfig(lr=1.0, per_step=True, warmup_steps=warmup)
    assert all(0 < rate(settings, step) <= 1 for step in range(100))
