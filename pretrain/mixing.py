"""Hard negative mixing (MoCHi): synthesise harder negatives for contrastive learning from features, on the fly.

Source: Kalantidis, Sariyildiz, Pion, Weinzaepfel, Larlus, "Hard Negative Mixing for Contrastive Learning", NeurIPS
2020 (arXiv 2010.01028), section 4.

Shapes: B queries q (B, D) and K negatives n (K, D), all of unit length; t = q·n (B, K) are the cosines.
N = number of hardest negatives to mix from; S = s pair mixes, P = s' query mixes per query; M = S + P.

Mixes are never materialised. For unit vectors a mix's product with the query follows from known products:

  pair mix    h  = (a n_i + (1-a) n_j) / ‖·‖      q·h  = (a t_i + (1-a) t_j) / sqrt(a² + (1-a)² + 2a(1-a) n_i·n_j)
  query mix   h' = (b q + (1-b) n_j) / ‖·‖        q·h' = (b + (1-b) t_j) / sqrt(b² + (1-b)² + 2b(1-b) t_j)

Only the pair product n_i·n_j reads features. h and h' are treated as constants: the gradient of q·h is h, that is t_i
and t_j with their coefficients; the gradient of q·h' is h', whose component along q vanishes because q is normalised,
which leaves t_j with the coefficient (1-b)/‖·‖.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pretrain.config import MixingConfig
from pretrain.kernels.hardest import find_largest
from pretrain.kernels.pair_dots import dot_pairs

APPROXIMATE_BINS = 8192
"""Approximate top-N keeps the largest cosine in each of this many bins of the queue: recall about 95 % at N = 1024."""


@dataclass(frozen=True)
class Mixes:
    """The synthetic negatives of a batch: their products with the query, their parents and the gradient's weights.

    q·h = `cosines`; its gradient with respect to t is `weights` at `parents`. For query mixes the second weight is 0.
    """

    cosines: Tensor  # (B, M), float32; -inf if a query has no negative to mix
    parents: Tensor  # (2, B, M) indices into the K negatives
    weights: Tensor  # (2, B, M)


def mix(
    queries: Tensor,
    negatives: Tensor,
    logits: Tensor,
    settings: MixingConfig,
    *,
    generator: torch.Generator | None = None,
    exclude: Tensor | None = None,
) -> Tensor:
    """Return the cosines of s pair mixes and s' query mixes with each query, as additional columns of the logits.

    Works with any negatives: a queue, a memory bank, the other images of the batch.

    Args:
        queries: q, (B, D), unit length.
        negatives: n, (K, D), unit length. If they require gradients (SimCLR), pass them detached and compute `logits`
            from the detached ones, since mixes are constants.
        logits: t = q·n before the temperature, (B, K); gradients flow through it.
        settings: N, s, s' and the variants; s and s' may exceed N.
        generator: source of the random numbers, on the device of the tensors.
        exclude: (B, K) bool, negatives of a query that must not be mixed (its positives, its class).

    Returns:
        Cosines, (B, s + s'), float32 (float64 for float64 input), pair mixes first.

    Raises:
        ValueError: the shapes do not match, or mixes are configured with n = 0.

    Examples:
        In your own training loop:

        >>> import torch, torch.nn.functional as F
        >>> from pretrain.config import MixingConfig
        >>> from pretrain.mixing import mix
        >>> queries, keys, bank = (F.normalize(torch.randn(n, 128), dim=1) for n in (8, 8, 4096))
        >>> negatives = queries @ bank.T                                          # your logits, before the temperature
        >>> harder = mix(queries, bank, negatives, MixingConfig(n=256, s=512, s_prime=256))
        >>> logits = torch.cat([(queries * keys).sum(1, keepdim=True), negatives, harder], dim=1)
        >>> loss = F.cross_entropy(logits / 0.2, torch.zeros(8, dtype=torch.long))
        >>> logits.shape
        torch.Size([8, 4865])

    """
    _, n, t = take_inputs(queries, negatives, logits, settings)
    with torch.no_grad():
        mixes = draw_mixes(t.detach(), n, settings, generator=generator, exclude=exclude)
    if not t.requires_grad:
        return mixes.cosines
    linear = t.gather(1, mixes.parents[0]) * mixes.weights[0]
    linear = linear + t.gather(1, mixes.parents[1]) * mixes.weights[1]
    return mixes.cosines + (linear - linear.detach())  # closed-form value, gradient of h


def take_inputs(
    queries: Tensor, negatives: Tensor, logits: Tensor, settings: MixingConfig
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (q, n, t) in float32 (float64 is kept), n detached; ValueError if shapes do not match or n = 0."""
    shapes = tuple(queries.shape), tuple(negatives.shape), tuple(logits.shape)
    if queries.shape[1:] != negatives.shape[1:] or logits.shape != (len(queries), len(negatives)):
        raise ValueError(f"mix: expected queries (B, D), negatives (K, D) and logits (B, K); got {shapes}")
    if settings.n < 1 and settings.count:
        raise ValueError(f"mixing.n: expected 1 or more, since mixes are configured; got {settings.n}")
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    return queries.to(dtype), negatives.detach().to(dtype), logits.to(dtype)


def draw_mixes(
    logits: Tensor,
    negatives: Tensor,
    settings: MixingConfig,
    *,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
    exclude: Tensor | None = None,
) -> Mixes:
    """Return the mixes of each query: find its N hardest negatives, draw random parents, apply the closed forms.

    Args: as `mix`; `logits` (B, K) is t / temperature, of which only the drawn entries are rescaled.
    """
    hardest, allowed = find_hardest(logits, settings.n, exclude=exclude, approximate=settings.approximate)
    batch, s, s_prime = len(logits), settings.s, settings.s_prime
    first = draw_parents(hardest, allowed, s, generator)  # (B, S)
    second = draw_parents(hardest, allowed, s + s_prime, generator)  # (B, M)
    uniform = torch.rand(batch, s + s_prime, generator=generator, device=logits.device, dtype=logits.dtype)
    t = temperature * logits.gather(1, second)  # (B, M)

    a, t_i, t_j = uniform[:, :s], temperature * logits.gather(1, first), t[:, :s]
    pair_norm = mix_norm(a, dot_pairs(negatives, first, second[:, :s]))
    pairs = (a * t_i + (1 - a) * t_j) / pair_norm  # (B, S)

    b, t_n = uniform[:, s:] / 2, t[:, s:]  # b ~ U(0, 0.5): the negative always dominates
    query_norm = mix_norm(b, t_n)
    with_query = (b + (1 - b) * t_n) / query_norm  # (B, P)

    slope = (1 - b) / query_norm
    if not settings.detach:
        slope *= 1 - b * with_query / query_norm  # full derivative with respect to t, through q inside h' too

    empty = (allowed == 0)[:, None]
    return Mixes(
        cosines=torch.cat([pairs, with_query], dim=1).masked_fill_(empty, -torch.inf),
        parents=torch.stack([torch.cat([first, second[:, s:]], dim=1), second]),
        weights=torch.stack(
            [
                torch.cat([a / pair_norm, slope], dim=1),
                torch.cat([(1 - a) / pair_norm, torch.zeros_like(b)], dim=1),
            ]
        ).masked_fill_(empty, 0.0),
    )


def find_hardest(
    cosines: Tensor, n: int, *, exclude: Tensor | None = None, approximate: bool = False
) -> tuple[Tensor, Tensor]:
    """Return the indices of each query's N hardest negatives (B, N), and the number of usable ones (B,).

    If `exclude` (B, K) leaves fewer than N, the usable ones come first. N is capped at K.
    """
    if exclude is not None:
        cosines = cosines.masked_fill(exclude, -torch.inf)
    n = min(n, cosines.shape[1])
    if approximate and cosines.shape[1] >= 2 * APPROXIMATE_BINS >= 2 * n:
        width = cosines.shape[1] // APPROXIMATE_BINS
        binned = cosines[:, : APPROXIMATE_BINS * width].view(len(cosines), APPROXIMATE_BINS, width)
        largest, place = binned.max(dim=2)
        bins = largest.topk(n, dim=1, sorted=exclude is not None).indices
        hardest = bins * width + place.gather(1, bins)
    else:
        hardest = find_largest(cosines, n, ordered=exclude is not None)
    if exclude is None:
        return hardest, torch.full((len(cosines),), n, device=cosines.device)
    return hardest, (~exclude).gather(1, hardest).sum(dim=1)


def draw_parents(hardest: Tensor, allowed: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    """Return `count` of the N hardest per query (B, count), drawn uniformly with replacement; any count is valid."""
    draws = torch.rand(len(hardest), count, generator=generator, device=hardest.device)
    places = (draws * allowed[:, None]).long().clamp_(max=hardest.shape[1] - 1)
    return hardest.gather(1, places)


def mix_norm(a: Tensor, cosine: Tensor) -> Tensor:
    """Return ‖a x + (1-a) y‖ of unit vectors with x·y = cosine; never 0, so mixes of opposite parents are finite."""
    squared = a**2 + (1 - a) ** 2 + 2 * a * (1 - a) * cosine
    return squared.clamp_min_(torch.finfo(squared.dtype).tiny).sqrt_()


def measure_recall(cosines: Tensor, n: int) -> float:
    """Return the fraction of the true N hardest negatives that approximate top-N finds."""
    exact, _ = find_hardest(cosines, n)
    found, _ = find_hardest(cosines, n, approximate=True)
    marks = torch.zeros_like(cosines, dtype=torch.bool).scatter_(1, found, value=True)
    return marks.gather(1, exact).double().mean().item()
