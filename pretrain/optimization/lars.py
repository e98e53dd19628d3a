"""LARS: SGD whose step is scaled per layer by the norm of the weights, for large batches.

Source: You, Gitman and Ginsburg, "Large Batch Training of Convolutional Networks" (arXiv 1708.03888), algorithm 1, in
the form of facebookresearch/moco-v3, moco/optimizer.py.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

TRUST = 0.001
"""Ratio of a step's norm to the weights' norm at learning rate 1 (arXiv 1708.03888, section 5; MoCo-v3)."""


class LARS(torch.optim.Optimizer):
    """v = momentum v + r (g + decay w), w = w - lr v, with r = trust ‖w‖ / ‖g + decay w‖ for each tensor.

    Tensors of one dimension (biases and the parameters of normalisation layers) have r = 1 and no decay.
    """

    def __init__(self, weights: Iterable[Tensor], lr: float, *, momentum: float, weight_decay: float) -> None:
        super().__init__(weights, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every weight that has a gradient; ValueError if `closure` is given."""
        if closure is not None:
            raise ValueError("LARS takes no closure; call backward() before step()")
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            changes = [_scale(weight, weight.grad, group["weight_decay"]) for weight in weights]
            velocities = [self._velocity(weight) for weight in weights]
            if weights:
                torch._foreach_mul_(velocities, group["momentum"])
                torch._foreach_add_(velocities, changes)
                torch._foreach_add_(weights, velocities, alpha=-group["lr"])

    def _velocity(self, weight: Tensor) -> Tensor:
        state: dict[str, Any] = self.state[weight]
        if "velocity" not in state:
            state["velocity"] = torch.zeros_like(weight)
        velocity: Tensor = state["velocity"]
        return velocity


def _scale(weight: Tensor, gradient: Tensor, weight_decay: float) -> Tensor:
    """Return r (g + decay w), or g itself for a tensor of one dimension; r = 1 if either norm is 0."""
    if weight.ndim <= 1:
        return gradient
    change = gradient.add(weight, alpha=weight_decay)
    size, step = weight.norm(), change.norm()
    ratio = torch.where((size > 0) & (step > 0), TRUST * size / step, 1.0)
    return change.mul_(ratio)
