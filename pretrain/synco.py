"""SynCo's six types of synthetic hard negatives, the successor of MoCHi's two.

Source: Giakoumoglou and Stathaki, "SynCo: Synthetic Hard Negatives in Contrastive Learning" (arXiv 2410.02401),
section 3 and the README of its code: N = 1024, counts 256, 256, 256, 64, 64, 64.

Shapes as in pretrain/mixing.py; every mix is normalised, and constant for the gradient.

  1 interpolation  b q + (1-b) n      b ~ U(0, 0.5)         closed form in t (MoCHi's query mix)
  2 extrapolation  q + b (n - q)      b ~ U(1, 1.5)         closed form in t
  3 mixup          a n_i + (1-a) n_j  a ~ U(0, 1)           closed form in t_i, t_j, n_i·n_j (MoCHi's pair mix)
  4 noise          n + sigma e        e ~ N(0, I)           needs the noise: built, (B, 64, D)
  5 perturbed      n + delta q        (the gradient of q·n) closed form in t
  6 adversarial    n + eta sign(q)                          needs n·sign(q): built, (B, 64, D)
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from pretrain.config import MixingConfig
from pretrain.mixing import dot_pairs, draw_parents, find_hardest

SIGMA = DELTA = ETA = 0.01
"""Strengths of types 4, 5 and 6 (README of SynCo's code)."""
TYPES = ("interpolation", "extrapolation", "mixup", "noise", "perturbed", "adversarial")


def mix_synco(
    queries: Tensor,
    negatives: Tensor,
    logits: Tensor,
    settings: MixingConfig,
    *,
    generator: torch.Generator | None = None,
    exclude: Tensor | None = None,
) -> Tensor:
    """Return the cosines of SynCo's mixes with each query, (B, sum of the counts), types in the order above.

    Args: as `pretrain.mixing.mix`; `settings.synco` holds the six counts.

    Raises:
        ValueError: `settings.synco` has not six counts.

    """
    if len(settings.synco) != len(TYPES):
        raise ValueError(
            f"mixing.synco: expected six counts ({', '.join(TYPES)}), got {len(settings.synco)}: {settings.synco}"
        )
    q, n, t = queries.detach(), negatives.detach(), logits.detach()
    hardest, allowed = find_hardest(t, settings.n, exclude=exclude, approximate=settings.approximate)

    def draw(count: int) -> Tensor:
        return draw_parents(hardest, allowed, count, generator)  # (B, count)

    def draw_uniform(count: int, low: float, high: float) -> Tensor:
        uniform = torch.rand(len(t), count, generator=generator, device=t.device, dtype=t.dtype)
        return low + (high - low) * uniform

    def combine(count: int, share_of_query: Tensor | float, share_of_negative: Tensor | float) -> Tensor:
        """Return q·h of h = normalize(x q + y n): (x + y t) / sqrt(x² + y² + 2xy t); the gradient flows through t."""
        cosine = logits.gather(1, draw(count))
        x, y, fixed = share_of_query, share_of_negative, cosine.detach()
        norm = (x * x + y * y + 2 * x * y * fixed).clamp_min(torch.finfo(t.dtype).tiny).sqrt()
        return (x + y * cosine) / norm

    def build(count: int, shift: Tensor) -> Tensor:
        """Return q·h of h = normalize(n + shift), built."""
        h = F.normalize(n[draw(count)] + shift, dim=2)  # (B, count, D)
        return torch.einsum("bd,bmd->bm", queries, h)

    interpolation, extrapolation, mixup, noise, perturbed, adversarial = settings.synco
    b = draw_uniform(interpolation, 0, 0.5)
    c = draw_uniform(extrapolation, 1, 1.5)
    a, first, second = draw_uniform(mixup, 0, 1), draw(mixup), draw(mixup)
    pair_norm = (a**2 + (1 - a) ** 2 + 2 * a * (1 - a) * dot_pairs(n, first, second)).clamp_min(1e-12).sqrt()
    white = torch.randn(len(t), noise, n.shape[1], generator=generator, device=t.device, dtype=t.dtype)
    mixes = [
        combine(interpolation, b, 1 - b),
        combine(extrapolation, 1 - c, c),
        (a * logits.gather(1, first) + (1 - a) * logits.gather(1, second)) / pair_norm,
        build(noise, SIGMA * white),
        combine(perturbed, DELTA, 1.0),
        build(adversarial, ETA * q.sign()[:, None]),
    ]
    return torch.cat(mixes, dim=1).masked_fill((allowed == 0)[:, None], -torch.inf)
