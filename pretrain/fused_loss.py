"""InfoNCE with mixing in one autograd.Function: the gradient is formed in the forward, in the logits' own memory.

Shapes as in pretrain/loss.py. One (B, K) buffer holds in turn the cosines t, the probabilities, and dloss/dt; the mixes
add theirs by scattering onto their parents. What is kept for the backward is dloss/dq, (B, D): one product P n.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pretrain.mixing import Mixes


class FusedContrast(torch.autograd.Function):
    """The loss of pretrain.loss.contrastive_loss for keys and negatives without gradient (MoCo's queue)."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        n: Tensor,
        temperature: float,
        exclude: Tensor | None,
        draw: Callable[[Tensor], Mixes | None],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return loss (scalar), hits (B,), hits with mixes (B,); `draw` makes the mixes from t."""
        positive = torch.einsum("bd,bd->b", q, k)[:, None]  # (B, 1)
        t = q @ n.T  # (B, K): cosines, then probabilities, then the gradient
        mixes = draw(t)
        if exclude is not None:
            t.masked_fill_(exclude, -torch.inf)
        hardest = t.amax(dim=1, keepdim=True)
        hits = positive > hardest
        hardest_mix = mixes.cosines.amax(dim=1, keepdim=True) if mixes else torch.full_like(positive, -torch.inf)
        top = torch.maximum(torch.maximum(hardest, hardest_mix), positive) / temperature

        exp_positive = (positive / temperature - top).exp_()
        exp_mixes = (mixes.cosines / temperature - top).exp_() if mixes else None
        t.mul_(1 / temperature).sub_(top).exp_()
        total = t.sum(dim=1, keepdim=True) + exp_positive
        if exp_mixes is not None:
            total += exp_mixes.sum(dim=1, keepdim=True)
        loss = (total.log() + top - positive / temperature).mean()
        if ctx.needs_input_grad[0]:
            scale = 1 / (total * temperature * len(q))
            share = exp_mixes * scale if exp_mixes is not None else None
            pull = exp_positive * scale - 1 / (temperature * len(q))  # (B, 1): dloss/d(q·k), below 0
            ctx.save_for_backward(_form_gradient(t.mul_(scale), mixes, share, n).add_(pull * k))
        hits_with_mixes = hits & (positive > hardest_mix)
        ctx.mark_non_differentiable(hits, hits_with_mixes)
        return loss, hits[:, 0], hits_with_mixes[:, 0]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return dloss/dq times the incoming gradient; nothing for the others."""
        (gradient,) = ctx.saved_tensors
        return gradient * gradients[0], None, None, None, None, None


def _form_gradient(t: Tensor, mixes: Mixes | None, share: Tensor | None, n: Tensor) -> Tensor:
    """Return the negatives' part of dloss/dq (B, D).

    `t` (B, K) holds the real negatives' part of dloss/dt and is overwritten; `share` (B, M) is dloss/d(q·h).
    """
    if mixes is not None and share is not None:
        for parents, weights in zip(mixes.parents, mixes.weights, strict=True):
            t.scatter_add_(1, parents, share * weights)
    return t @ n
