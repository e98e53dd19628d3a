"""InfoNCE with mixing in one autograd.Function: the forward computes the gradient in the memory of the logits.

Shapes as in pretrain/loss.py. The caller's (B, K) buffer of logits is reused for their exponentials, then for the
unscaled gradient dloss/dt; the gradients of the mixes are scattered to their parents. Only dloss/dq (B, D), one product
with the negatives, is saved for the backward pass.
"""

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
        logits: Tensor,
        mixes: Mixes | None,
        temperature: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return loss (scalar), hits (B,), hits with mixes (B,).

        `logits` (B, K) hold t / tau (-inf if a negative is excluded) and are overwritten, by
        exp(t / tau - top), then by the unscaled gradient.
        """
        positive = torch.einsum("bd,bd->b", q, k)[:, None] / temperature  # (B, 1)
        hardest = logits.amax(dim=1, keepdim=True)
        mixed = mixes.cosines / temperature if mixes else torch.full_like(positive, -torch.inf)  # (B, M)
        hardest_mix = mixed.amax(dim=1, keepdim=True)
        top = torch.maximum(torch.maximum(hardest, hardest_mix), positive)

        exp_positive, exp_mixed = (positive - top).exp_(), mixed.sub_(top).exp_()
        logits.sub_(top).exp_()
        total = logits.sum(dim=1, keepdim=True) + exp_mixed.sum(dim=1, keepdim=True) + exp_positive
        loss = (total.log() + top - positive).mean()
        if ctx.needs_input_grad[0]:
            scale = 1 / (total * temperature * len(q))  # (B, 1)
            pull = exp_positive * scale - 1 / (temperature * len(q))  # dloss/d(q·k), below 0
            ctx.save_for_backward(_push(logits, mixes, exp_mixed, n).mul_(scale).add_(pull * k))
        hits = positive > hardest
        hits_with_mixes = hits & (positive > hardest_mix)
        ctx.mark_non_differentiable(hits, hits_with_mixes)
        return loss, hits[:, 0], hits_with_mixes[:, 0]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return dloss/dq times the incoming gradient; None for the other inputs."""
        (gradient,) = ctx.saved_tensors
        return gradient * gradients[0], None, None, None, None, None


def _push(weights: Tensor, mixes: Mixes | None, exp_mixed: Tensor, n: Tensor) -> Tensor:
    """Return the unscaled contribution of the negatives to dloss/dq (B, D); overwrites `weights` (B, K).

    A mix contributes through its parents: exp(q·h / tau - top) times a parent's weight in h is added at its index.
    """
    if mixes is not None:
        for parents, shares in zip(mixes.parents, mixes.weights, strict=True):
            weights.scatter_add_(1, parents, exp_mixed * shares)
    return weights @ n
