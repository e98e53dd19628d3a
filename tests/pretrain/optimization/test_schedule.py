"""Learning rates are pure functions of progress."""

import math

import pytest

from pretrain.config import OptimizerConfig
from pretrain.optimization.schedule import build_schedule, find_rate


def rate(settings: OptimizerConfig, step: int, steps: int = 100, epochs: int = 10, batch: int = 256) -> float:
    return find_rate(build_schedule(settings, batch), settings, step=step, steps=steps, epochs=epochs)


def test_cosine_moves_per_epoch_as_in_the_reference() -> None:
    settings = OptimizerConfig(lr=0.03)
    assert rate(settings, 0) == rate(settings, 9) == 0.03
    assert rate(settings, 55) == pytest.approx(0.03 * 0.5 * (1 + math.cos(math.pi * 5 / 10)))  # main_moco.py


def test_per_step_moves_at_every_step() -> None:
    settings = OptimizerConfig(lr=0.03, per_step=True)
    assert rate(settings, 55) == pytest.approx(0.03 * 0.5 * (1 + math.cos(math.pi * 0.55)))


def test_step_schedule_drops_at_120_and_160_of_200() -> None:
    settings = OptimizerConfig(lr=0.03, schedule="step", milestones=(0.6, 0.8))
    rates = [rate(settings, epoch * 5, steps=1000, epochs=200) for epoch in (0, 119, 120, 159, 160, 199)]
    assert rates == pytest.approx([0.03, 0.03, 0.003, 0.003, 0.0003, 0.0003])


def test_linear_rule_scales_with_the_batch() -> None:
    assert rate(OptimizerConfig(lr=0.03, lr_rule="linear"), 0, batch=1024) == pytest.approx(0.12)
