"""Triton kernel for dot products of row pairs on a GPU; each pair is read into registers and reduced to one number.

Imported on CUDA only (pretrain/kernels/pair_dots.py), since only torch's CUDA builds include Triton.
Shapes: n (K, D), rows contiguous; R pairs of row indices; a program processes PAIRS of them at once.
"""

import torch
import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]
from torch import Tensor

TILE = tl.constexpr(2048)
"""Values per operand and program: 16 pairs at D = 128, 16 values per thread in four warps."""


@triton.jit  # type: ignore[untyped-decorator]
def pair_kernel(n, first, second, dots, count, D, WIDTH: tl.constexpr) -> None:  # type: ignore[no-untyped-def]
    """Write dots[r] = n[first[r]] · n[second[r]] for r below `count`; WIDTH is D's next power of two."""
    PAIRS: tl.constexpr = TILE // WIDTH
    pair = tl.program_id(0) * PAIRS + tl.arange(0, PAIRS)
    column = tl.arange(0, WIDTH)
    inside = pair < count
    i = tl.load(first + pair, mask=inside, other=0)
    j = tl.load(second + pair, mask=inside, other=0)
    filled = inside[:, None] & (column < D)[None, :]
    x = tl.load(n + i[:, None] * D + column[None, :], mask=filled, other=0.0)
    y = tl.load(n + j[:, None] * D + column[None, :], mask=filled, other=0.0)
    tl.store(dots + pair, tl.sum(x * y, axis=1), mask=inside)


def dot_pairs_in_registers(n: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Return n[first[r]]·n[second[r]], (R,), for flat int64 indices on the device of `n`; D is at most TILE."""
    n, count, dim = n.contiguous(), len(first), n.shape[1]
    if dim > TILE.value:
        raise ValueError(
            f"pair products: expected rows of width {TILE.value} or less, got {dim}; choose a smaller model.dim"
        )
    dots = torch.empty(count, dtype=n.dtype, device=n.device)
    width = triton.next_power_of_2(dim)
    programs = triton.cdiv(count, TILE.value // width)
    if programs:
        with torch.cuda.device_of(n):  # type: ignore[no-untyped-call]  # Triton launches on the current device
            pair_kernel[(programs,)](n, first, second, dots, count, dim, width)
    return dots
