"""Optimizers equal float64 loops over the formulas of their sources."""

import math

import pytest
import torch
from torch import nn

from pretrain.config import OptimizerConfig
from pretrain.optimization.optimizers import build_optimizer

CPU = torch.device("cpu")
RATE, DECAY, STEPS = 0.1, 0.3, 4


def make_weights() -> list[nn.Parameter]:
    torch.manual_seed(0)
    return [nn.Parameter(torch.randn(shape, dtype=torch.float64)) for shape in ((3, 2), (4,), (2, 2, 3, 3))]


def gradients(step: int) -> list[torch.Tensor]:
    torch.manual_seed(step + 1)
    return [torch.randn_like(weight) for weight in make_weights()]


def run(name: str) -> list[torch.Tensor]:
    weights = make_weights()
    optimizer = build_optimizer(weights, OptimizerConfig(name=name, lr=RATE, weight_decay=DECAY), CPU)
    for step in range(STEPS):
        for weight, gradient in zip(weights, gradients(step), strict=True):
            weight.grad = gradient
        optimizer.step()
    return [weight.detach() for weight in weights]


def expected_sgd(w: torch.Tensor, gradients: list[torch.Tensor]) -> torch.Tensor:
    v = torch.zeros_like(w)
    for g in gradients:
        v = 0.9 * v + g + DECAY * w
        w = w - RATE * v
    return w


def expected_adamw(w: torch.Tensor, gradients: list[torch.Tensor]) -> torch.Tensor:
    """Loshchilov and Hutter, arXiv 1711.05101, algorithm 2, decay of every tensor."""
    first, second = torch.zeros_like(w), torch.zeros_like(w)
    for t, g in enumerate(gradients, start=1):
        first, second = 0.9 * first + 0.1 * g, 0.999 * second + 0.001 * g * g
        w = w - RATE * DECAY * w
        w = w - RATE * (first / (1 - 0.9**t)) / ((second / (1 - 0.999**t)).sqrt() + 1e-8)
    return w


def expected_lars(w: torch.Tensor, gradients: list[torch.Tensor]) -> torch.Tensor:
    """moco/optimizer.py of MoCo-v3: no decay and no scaling for one-dimensional tensors."""
    v = torch.zeros_like(w)
    for g in gradients:
        change = g
        if w.ndim > 1:
            change = g + DECAY * w
            change = change * (0.001 * math.sqrt(float((w * w).sum())) / math.sqrt(float((change * change).sum())))
        v = 0.9 * v + change
        w = w - RATE * v
    return w


@pytest.mark.parametrize(
    ("name", "expected"), [("sgd", expected_sgd), ("adamw", expected_adamw), ("lars", expected_lars)]
)
def test_optimizer_follows_its_formula(name: str, expected) -> None:
    per_weight = list(zip(*(gradients(step) for step in range(STEPS)), strict=True))
    for moved, start, own in zip(run(name), make_weights(), per_weight, strict=True):
        torch.testing.assert_close(moved, expected(start.detach(), list(own)), rtol=1e-12, atol=1e-14)


def test_lars_takes_the_plain_step_where_a_norm_is_zero() -> None:
    weight = nn.Parameter(torch.zeros(2, 2))
    optimizer = build_optimizer([weight], OptimizerConfig(name="lars", lr=RATE, weight_decay=0.0), CPU)
    weight.grad = torch.ones(2, 2)
    optimizer.step()
    assert torch.equal(weight.detach(), torch.full((2, 2), -RATE))
    weight.grad = torch.zeros(2, 2)
    optimizer.step()
    assert bool(weight.isfinite().all())


def test_lars_does_not_change_weights_without_gradient() -> None:
    weight = nn.Parameter(torch.ones(2, 2))
    build_optimizer([weight], OptimizerConfig(name="lars"), CPU).step()
    assert torch.equal(weight.detach(), torch.ones(2, 2))


def test_adamw_keeps_its_state_in_the_layout_of_the_weights() -> None:
    weight = nn.Parameter(torch.randn(4, 3, 3, 3).contiguous(memory_format=torch.channels_last))
    optimizer = build_optimizer([weight], OptimizerConfig(name="adamw"), CPU)
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    assert optimizer.state[weight]["exp_avg"].is_contiguous(memory_format=torch.channels_last)
