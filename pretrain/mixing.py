"""Mix hard negatives (MoCHi): harder negatives for contrastive learning, made on the fly at the level of features.

Source: Kalantidis, Sariyildiz, Pion, Weinzaepfel, Larlus, "Hard Negative Mixing for Contrastive Learning", NeurIPS
2020 (arXiv 2010.01028), section 4.

Shapes: B queries q (B, D) and K negatives n (K, D), all of unit length; t = q·n (B, K) are the cosines.
N = how many of the hardest negatives may be mixed; S = s pair mixes, P = s' query mixes per query; M = S + P.

A mix is never built. With unit vectors its product with the query follows from products that are there already:

  pair mix    h  = (a n_i + (1-a) n_j) / ‖·‖      q·h  = (a t_i + (1-a) t_j) / sqrt(a² + (1-a)² + 2a(1-a) n_i·n_j)
  query mix   h' = (b q + (1-b) n_j) / ‖·‖        q·h' = (b + (1-b) t_j) / sqrt(b² + (1-b)² + 2b(1-b) t_j)

Only the pair product n_i·n_j touches features. Everything inside h and h' counts as constant: the gradient of q·h is
h, so a t_i and t_j each with its coefficient; that of q·h' is h', whose part along q vanishes because q was normalised,
so t_j with the coefficient (1-b)/‖·‖.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pretrain.config import MixingConfig
from pretrain.kernels.hardest import find_largest
from pretrain.kernels.pair_dots import dot_pairs

APPROXIMATE_BINS = 8192
"""Approximate top-N keeps the largest cosine of each of so many bins of the queue: recall about 95 % at N = 1024."""


@dataclass(frozen=True)
class Mixes:
    """The synthetic negatives of a batch, as the loss needs them: products with the query, and where they come from.

    q·h = `cosines`; its gradient with respect to t is `weights` at `parents`: for pair mixes both parents count, for
    query mixes the second weight is 0.
    """

    cosines: Tensor  # (B, M), float32; -inf where a query has no negative to mix
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
    """Return the cosines of s pair mixes and s' query mixes with each query: more columns for the logits.

    Works on any negatives: a queue, a memory bank, the other images of the batch.

    Args:
        queries: q, (B, D), unit length.
        negatives: n, (K, D), unit length. Where they carry a gradient (SimCLR), pass them detached, and `logits` made
            with the detached ones: mixes are constants.
        logits: t = q·n before the temperature, (B, K); gradients flow through it.
        settings: N, s, s' and the options; s and s' may be larger than N.
        generator: the source of the random draws, on the device of the tensors.
        exclude: (B, K) bool, negatives of a query that must not be mixed (its own positives, its class).

    Returns:
        Cosines, (B, s + s'), float32 (float64 for float64 input), pair mixes first.

    Raises:
        ValueError: the shapes do not fit each other, or mixes of 0 hardest negatives are asked for.

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
    return mixes.cosines + (linear - linear.detach())  # the value of the closed form, the gradient of h


def take_inputs(
    queries: Tensor, negatives: Tensor, logits: Tensor, settings: MixingConfig
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (q, n, t) in float32 (float64 stays), n detached; ValueError when they do not fit each other."""
    shapes = tuple(queries.shape), tuple(negatives.shape), tuple(logits.shape)
    if queries.shape[1:] != negatives.shape[1:] or logits.shape != (len(queries), len(negatives)):
        raise ValueError(f"mix: expected queries (B, D), negatives (K, D) and logits (B, K); got {shapes}")
    if settings.n < 1 and settings.count:
        raise ValueError(f"mixing.n: mixes are asked for, of {settings.n} hardest negatives; expected 1 or more")
    kind = torch.float64 if logits.dtype == torch.float64 else torch.float32
    return queries.to(kind), negatives.detach().to(kind), logits.to(kind)


def draw_mixes(
    logits: Tensor,
    negatives: Tensor,
    settings: MixingConfig,
    *,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
    exclude: Tensor | None = None,
) -> Mixes:
    """Return the mixes of each query: its N hardest negatives, random parents among them, closed forms.

    Args: as `mix`; `logits` (B, K) is t / temperature, and only what is drawn of it is scaled back.
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

    b, t_n = uniform[:, s:] / 2, t[:, s:]  # b ~ U(0, 0.5): the query never outweighs the negative
    query_norm = mix_norm(b, t_n)
    with_query = (b + (1 - b) * t_n) / query_norm  # (B, P)

    slope = (1 - b) / query_norm
    if not settings.detach:
        slope *= 1 - b * with_query / query_norm  # the whole derivative by t: q inside h' moves too

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
    """Return the indices of each query's N hardest negatives (B, N), and how many of them may be used (B,).

    Fewer than N may be used where `exclude` (B, K) leaves fewer; those stand first. N is cut to K.
    """
    if exclude is not None:
        cosines = cosines.masked_fill(exclude, -torch.inf)
    n = min(n, cosines.shape[1])
    if approximate and cosines.shape[1] >= 2 * APPROXIMATE_BINS >= 2 * n:
        width = cosines.shape[1] // APPROXIMATE_BINS
        whole = cosines[:, : APPROXIMATE_BINS * width].view(len(cosines), APPROXIMATE_BINS, width)
        largest, place = whole.max(dim=2)
        bins = largest.topk(n, dim=1, sorted=exclude is not None).indices
        hardest = bins * width + place.gather(1, bins)
    else:
        hardest = find_largest(cosines, n, ordered=exclude is not None)
    if exclude is None:
        return hardest, torch.full((len(cosines),), n, device=cosines.device)
    return hardest, (~exclude).gather(1, hardest).sum(dim=1)


def draw_parents(hardest: Tensor, allowed: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    """Return `count` of the N hardest per query (B, count), uniformly and with replacement, so any count will do."""
    draws = torch.rand(len(hardest), count, generator=generator, device=hardest.device)
    places = (draws * allowed[:, None]).long().clamp_(max=hardest.shape[1] - 1)
    return hardest.gather(1, places)


def mix_norm(a: Tensor, cosine: Tensor) -> Tensor:
    """Return ‖a x + (1-a) y‖ of unit vectors with x·y = cosine; never 0, so that opposite parents stay finite."""
    squared = a**2 + (1 - a) ** 2 + 2 * a * (1 - a) * cosine
    return squared.clamp_min_(torch.finfo(squared.dtype).tiny).sqrt_()


def measure_recall(cosines: Tensor, n: int) -> float:
    """Return the share of the true N hardest negatives that approximate top-N finds."""
    exact, _ = find_hardest(cosines, n)
    found, _ = find_hardest(cosines, n, approximate=True)
    marks = torch.zeros_like(cosines, dtype=torch.bool).scatter_(1, found, value=True)
    return marks.gather(1, exact).double().mean().item()
