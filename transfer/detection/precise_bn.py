"""PreciseBN with equal results on all ranks: population statistics over the batches of all ranks, in float64.

fvcore's update_bn_stats leaves every rank with the statistics of its own batches (fvcore issue 152, detectron2 issue
5398), so the re-evaluated AP of the saved model differs from the logged one. On one process the result equals fvcore's
up to rounding; the estimator is that of "Rethinking Batch in BatchNorm" (arXiv 2105.07576), appendix.
C: channels of a norm.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pretrain.runtime import distributed


class _Population:
    """Sums over the batches of one norm: elements x mean, elements x mean of squares, elements; float64."""

    def __init__(self, norm: _BatchNorm) -> None:
        assert norm.running_mean is not None
        self.sums = torch.zeros(2 * norm.num_features + 1, dtype=torch.float64, device=norm.running_mean.device)

    def add(self, mean: Tensor, variance: Tensor, elements: int) -> None:
        """Add a batch with `elements` values per channel, their `mean` (C,) and Bessel-corrected `variance` (C,)."""
        mean, variance = mean.double(), variance.double() * ((elements - 1) / elements)
        ones = torch.ones(1, dtype=torch.float64, device=mean.device)
        self.sums += elements * torch.cat([mean, variance + mean**2, ones])

    def statistics(self) -> tuple[Tensor, Tensor] | None:
        """Return (mean, variance over all elements), each (C,); None if no batch was added."""
        elements = self.sums[-1]
        if elements == 0:
            return None
        mean, squares = (self.sums[:-1] / elements).chunk(2)
        return mean, (squares - mean**2).clamp(min=0)


def find_training_norms(model: nn.Module) -> list[_BatchNorm]:
    """Return the batch norms of `model` that are in training mode and track running statistics."""
    return [
        module
        for module in model.modules()
        if isinstance(module, _BatchNorm) and module.training and module.track_running_stats
    ]


@torch.no_grad()
def update_statistics(model: nn.Module, batches: Iterable[Any], count: int) -> int:
    """Set the running statistics of all training norms from `count` batches per rank; return the number of norms.

    All ranks must call it and get bit-identical results. A norm that received no batch on any rank is unchanged.

    Raises:
        ValueError: the batches end before `count`.

    """
    norms = find_training_norms(model)
    populations = {norm: _Population(norm) for norm in norms}
    seen = 0
    with _record(populations):
        for batch in islice(batches, count):
            model(batch)
            seen += 1
    if seen < count:
        raise ValueError(
            f"PreciseBN needs {count} batches (TEST.PRECISE_BN.NUM_ITER), but the data yielded {seen}; lower NUM_ITER"
        )
    for norm, population in populations.items():
        distributed.sum_in_place(population.sums)
        if (statistics := population.statistics()) is not None:
            assert norm.running_mean is not None
            assert norm.running_var is not None
            norm.running_mean.copy_(statistics[0])
            norm.running_var.copy_(statistics[1])
    return len(norms)


@torch.no_grad()
def share_statistics(model: nn.Module) -> None:
    """Copy the running statistics of the main rank, which are saved, to all ranks."""
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            for buffer in module.buffers(recurse=False):
                distributed.copy_from_main(buffer)


@contextmanager
def _record(populations: dict[_BatchNorm, _Population]) -> Iterator[None]:
    """Replace each norm's running statistics by those of its last batch, and accumulate them after each forward."""

    def note(norm: _BatchNorm, inputs: tuple[Tensor, ...], _output: Tensor) -> None:
        elements = inputs[0].numel() // inputs[0].shape[1]
        if elements > 1:
            assert norm.running_mean is not None
            assert norm.running_var is not None
            populations[norm].add(norm.running_mean, norm.running_var, elements)

    before = {norm: (norm.momentum, norm.num_batches_tracked) for norm in populations}
    kept = {norm: (norm.running_mean, norm.running_var) for norm in populations}
    hooks = [norm.register_forward_hook(note) for norm in populations]
    try:
        for norm, (mean, variance) in kept.items():
            assert mean is not None
            assert variance is not None
            norm.momentum = 1.0  # the running statistics become the batch's
            norm.running_mean, norm.running_var = mean.clone(), variance.clone()
            norm.num_batches_tracked = None  # counts only training steps
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for norm, (momentum, tracked) in before.items():
            norm.momentum, norm.num_batches_tracked = momentum, tracked
            norm.running_mean, norm.running_var = kept[norm]
