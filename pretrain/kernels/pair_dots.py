"""Compute dot products of row pairs, n_i·n_j, without materialising the gathered rows, (B, S, D).

`dot_pairs` has two implementations, chosen by device: a Triton kernel on CUDA; elsewhere, and on CUDA without Triton,
slices that are gathered, multiplied and summed one after another.
"""

import logging
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

SLICE_BYTES = 8 * 2**20
"""Approximate size of a slice's gathered rows: bounds the memory and keeps a slice in the cache."""
PairDots = Callable[[Tensor, Tensor, Tensor], Tensor]
logger = logging.getLogger(__name__)


def dot_pairs(n: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Return n[first]·n[second] for index tensors of one shape, in that shape; no gradient flows.

    Args:
        n: rows, (K, D).
        first: int64 indices into the K rows, of any shape.
        second: the same.

    """
    form = choose_form(n.device.type)
    return form(n, first.reshape(-1), second.reshape(-1)).view(first.shape)


@cache
def choose_form(device_type: str) -> PairDots:
    """Return the implementation for a device type, "cuda" or "cpu"."""
    if device_type != "cuda":
        return dot_pairs_in_slices
    try:
        from pretrain.kernels.pair_kernel import dot_pairs_in_registers  # heavy, and missing without CUDA
    except ImportError as error:
        logger.warning("Triton is not available (%s): pair products run in slices, with more kernel launches", error)
        return dot_pairs_in_slices
    return dot_pairs_in_registers


def dot_pairs_in_slices(n: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Return n[first[r]]·n[second[r]], (R,), for flat indices."""
    rows = max(1, SLICE_BYTES // (2 * n.shape[1] * n.element_size()))
    dots = torch.empty(first.shape, dtype=n.dtype, device=n.device)
    for begin in range(0, len(first), rows):
        x = n.index_select(0, first[begin : begin + rows])
        x *= n.index_select(0, second[begin : begin + rows])
        torch.sum(x, dim=1, out=dots[begin : begin + rows])
    return dots
