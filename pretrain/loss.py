"""InfoNCE with hard negative mixing: queries and keys in, loss out.

Source: He et al., "Momentum Contrast", CVPR 2020, equation 1; Kalantidis et al., NeurIPS 2020, section 4.

Shapes: B queries q (B, D), their positives k (B, D), K negatives n (K, D), M mixes per query; all of unit length.

  logits (B, 1+K+M) = [q·k | q·n | q·h] / tau        loss = mean over B of -log softmax(logits)[0]
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pretrain.config import MixingConfig
from pretrain.fused_loss import FusedContrast
from pretrain.mixing import draw_mixes, mix
from pretrain.synco import mix_synco


@dataclass(frozen=True)
class ContrastiveOutput:
    """Loss of a batch and which queries solved the proxy task."""

    loss: Tensor  # scalar
    hits: Tensor  # (B,) bool: the positive's logit exceeds every real negative's
    hits_with_mixes: Tensor  # (B,) bool: and every mix's; equal to `hits` without mixing

    @property
    def accuracy(self) -> float:
        """Proxy-task accuracy over the real negatives, in percent."""
        return 100 * self.hits.double().mean().item()

    @property
    def accuracy_with_mixes(self) -> float:
        """Proxy-task accuracy over the real and the synthetic negatives, in percent."""
        return 100 * self.hits_with_mixes.double().mean().item()


def contrastive_loss(
    queries: Tensor,
    keys: Tensor,
    negatives: Tensor,
    *,
    temperature: float,
    mixing: MixingConfig | None = None,
    generator: torch.Generator | None = None,
    exclude: Tensor | None = None,
) -> ContrastiveOutput:
    """Return InfoNCE of each query against its key, the negatives and, with `mixing`, their mixes.

    Computed in float32 regardless of autocast (bfloat16 logits change the gradient by 1e-2), in float64 for float64
    input. If neither keys nor negatives require gradients (MoCo), the fused form is used: same values, less time and
    memory.

    Args:
        queries: q, (B, D), unit length.
        keys: k, (B, D), unit length: row i is the positive of query i.
        negatives: n, (K, D), unit length.
        temperature: tau, above 0.
        mixing: N, s, s' and the variants; None: the real negatives only.
        generator: source of the mixing's random numbers, on the device of the tensors.
        exclude: (B, K) bool: negatives to remove from a query's denominator and mixes (`find_excluded`).

    Raises:
        ValueError: `temperature` is not above 0.

    """
    if temperature <= 0:
        raise ValueError(f"temperature: expected a number above 0, got {temperature}")
    with torch.autocast(queries.device.type, enabled=False):
        dtype = torch.float64 if queries.dtype == torch.float64 else torch.float32
        q, k, n = (tensor.to(dtype) for tensor in (queries, keys, negatives))
        plain = mixing is not None and (mixing.is_synco or mixing.hcl_beta)
        if plain or k.requires_grad or n.requires_grad:
            return plain_loss(q, k, n, temperature, mixing, generator, exclude)
        mixes = None
        with torch.no_grad():
            logits = (q / temperature) @ n.T  # (B, K)
            if mixing is not None and mixing.is_on:
                mixes = draw_mixes(logits, n, mixing, temperature=temperature, generator=generator, exclude=exclude)
            if exclude is not None:
                logits.masked_fill_(exclude, -torch.inf)
        return ContrastiveOutput(*FusedContrast.apply(q, k, n, logits, mixes, temperature))


def plain_loss(
    q: Tensor,
    k: Tensor,
    n: Tensor,
    temperature: float,
    mixing: MixingConfig | None,
    generator: torch.Generator | None,
    exclude: Tensor | None,
) -> ContrastiveOutput:
    """Return the result of `contrastive_loss`, computed step by step with autograd: the reference form."""
    positive = torch.einsum("bd,bd->b", q, k)[:, None]  # (B, 1)
    real = torch.einsum("bd,kd->bk", q, n)  # (B, K)
    columns = [positive / temperature, _weigh(real / temperature, mixing, exclude)]
    hardest_mix = torch.full_like(positive, -torch.inf)
    if mixing is not None and mixing.is_on:
        cosines = torch.einsum("bd,kd->bk", q, n.detach()) if n.requires_grad else real
        make = mix_synco if mixing.is_synco else mix
        mixes = make(q, n.detach(), cosines, mixing, generator=generator, exclude=exclude)  # (B, M)
        columns.append(mixes / temperature)
        hardest_mix = mixes.detach().amax(dim=1, keepdim=True)
    logits = torch.cat(columns, dim=1)  # (B, 1+K+M)
    loss = (logits.logsumexp(dim=1) - logits[:, 0]).mean()
    unmasked = real.detach() if exclude is None else real.detach().masked_fill(exclude, -torch.inf)
    hits = positive.detach() > unmasked.amax(dim=1, keepdim=True)
    return ContrastiveOutput(loss, hits[:, 0], (hits & (positive.detach() > hardest_mix))[:, 0])


def find_excluded(
    settings: MixingConfig, *, indices: tuple[Tensor, Tensor], labels: tuple[Tensor, Tensor]
) -> Tensor | None:
    """Return the (B, K) bool mask of negatives to remove from each query's denominator and mixes; None for no mask.

    Args:
        settings: `oracle` removes the query's class, `mask_same_image` the older keys of its own image.
        indices: sample indices of the queries (B,) and of the negatives (K,).
        labels: classes of the queries (B,) and of the negatives (K,).

    """
    masks = []
    if settings.oracle:
        masks.append(labels[0][:, None] == labels[1])
    if settings.mask_same_image:
        masks.append(indices[0][:, None] == indices[1])
    return torch.stack(masks).any(dim=0) if masks else None


def _weigh(logits: Tensor, mixing: MixingConfig | None, exclude: Tensor | None) -> Tensor:
    """Return the logits of the real negatives: -inf for excluded ones, re-weighted as in HCL if `hcl_beta` is set.

    HCL (Robinson et al., ICLR 2021, equation 4, without its debiasing) weights a negative with logit l by exp(beta l),
    divided by the mean of exp(beta l) over the K negatives, so its logit becomes l + beta l - log mean exp(beta l).
    """
    if exclude is not None:
        logits = logits.masked_fill(exclude, -torch.inf)
    if mixing is None or not mixing.hcl_beta:
        return logits
    finite = logits if exclude is None else logits.masked_fill(exclude, 0.0)
    kept = torch.full_like(logits[:, :1], logits.shape[1]) if exclude is None else (~exclude).sum(1, keepdim=True)
    log_mean = (mixing.hcl_beta * logits).logsumexp(dim=1, keepdim=True) - kept.clamp_min(1).log()
    weighted = logits + mixing.hcl_beta * finite - log_mean
    return weighted if exclude is None else weighted.masked_fill(exclude, -math.inf)
