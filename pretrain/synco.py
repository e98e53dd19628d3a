"""SynCo: six types of synthetic hard negatives, extending MoCHi's two.

Source: Giakoumoglou and Stathaki, "SynCo: Synthetic Hard Negatives in Contrastive Learning" (arXiv 2410.02401),
section 3 and the README of its code: N = 1024, counts 256, 256, 256, 64, 64, 64.

Shapes as in pretrain/mixing.py; every mix is normalised and treated as a constant by the gradient.

  1 interpolation  b q + (1-b) n      b ~ U(0, 0.5)         closed form in t (MoCHi's query mix)
  2 extrapolation  q + b (n - q)      b ~ U(1, 1.5)         closed form in t
  3 mixup          a n_i + (1-a) n_j  a ~ U(0, 1)           closed form in t_i, t_j, n_i·n_j (MoCHi's pair mix)
  4 noise          n + sigma e        e ~ N(0, I)           depends on the noise: materialised, (B, 64, D)
  5 perturbed      n + delta q        (the gradient of q·n) closed form in t
  6 adversarial    n + eta sign(q)                          depends on n·sign(q): materialised, (B, 64, D)
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from pretrain.config import MixingConfig
from pretrain.kernels.pair_dots import dot_pairs
from pretrain.mixing import draw_parents, find_hardest, mix_norm, take_inputs

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
        ValueError: `settings.synco` does not have six counts; otherwise as `mix`.

    """
    if len(settings.synco) != len(TYPES):
        raise ValueError(
            f"mixing.synco: expected six counts ({', '.join(TYPES)}), got {len(settings.synco)}: {settings.synco}"
        )
    q, n, t = take_inputs(queries, negatives, logits, settings)
    hardest, allowed = find_hardest(t.detach(), settings.n, exclude=exclude, approximate=settings.approximate)
    source = _Source(t, n, hardest, allowed, generator)
    interpolation, extrapolation, mixup, noise, perturbed, adversarial = settings.synco
    b = source.draw_uniform(interpolation, 0, 0.5)
    c = source.draw_uniform(extrapolation, 1, 1.5)
    mixes = [
        source.combine(interpolation, b, 1 - b),
        source.combine(extrapolation, 1 - c, c),
        source.combine_pairs(mixup),
        source.build(noise, q, SIGMA * source.draw_noise(noise)),
        source.combine(perturbed, DELTA, 1.0),
        source.build(adversarial, q, ETA * q.detach().sign()[:, None]),
    ]
    return torch.cat(mixes, dim=1).masked_fill((allowed == 0)[:, None], -torch.inf)


@dataclass(frozen=True)
class _Source:
    """Inputs from which the mixes of a batch are drawn."""

    logits: Tensor  # t, (B, K)
    negatives: Tensor  # n, (K, D), constant
    hardest: Tensor  # (B, N) indices
    allowed: Tensor  # (B,) number of usable ones among them
    generator: torch.Generator | None

    def draw(self, count: int) -> Tensor:
        """Return the indices of `count` random parents per query, (B, count)."""
        return draw_parents(self.hardest, self.allowed, count, self.generator)

    def draw_uniform(self, count: int, low: float, high: float) -> Tensor:
        """Return (B, count) numbers from U(low, high)."""
        t = self.logits
        uniform = torch.rand(len(t), count, generator=self.generator, device=t.device, dtype=t.dtype)
        return low + (high - low) * uniform

    def draw_noise(self, count: int) -> Tensor:
        """Return (B, count, D) numbers from N(0, 1)."""
        n, size = self.negatives, (len(self.logits), count, self.negatives.shape[1])
        return torch.randn(size, generator=self.generator, device=n.device, dtype=n.dtype)

    def combine(self, count: int, x: Tensor | float, y: Tensor | float) -> Tensor:
        """Return q·h of h = normalize(x q + y n): (x + y t) / sqrt(x² + y² + 2xy t); the gradient flows through t."""
        t = self.logits.gather(1, self.draw(count))
        squared = x * x + y * y + 2 * x * y * t.detach()
        return (x + y * t) / squared.clamp_min(torch.finfo(t.dtype).tiny).sqrt()

    def combine_pairs(self, count: int) -> Tensor:
        """Return q·h of h = normalize(a n_i + (1-a) n_j), a ~ U(0, 1)."""
        a, first, second = self.draw_uniform(count, 0, 1), self.draw(count), self.draw(count)
        norm = mix_norm(a, dot_pairs(self.negatives, first, second))
        return (a * self.logits.gather(1, first) + (1 - a) * self.logits.gather(1, second)) / norm

    def build(self, count: int, queries: Tensor, shift: Tensor) -> Tensor:
        """Return q·h of h = normalize(n + shift); h is materialised as (B, count, D)."""
        h = F.normalize(self.negatives[self.draw(count)] + shift, dim=2)
        return torch.einsum("bd,bmd->bm", queries, h)
