"""k-nearest-neighbour classification in feature space; pure functions.

Source: Wu, Xiong, Yu and Lin, "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", CVPR 2018
(arXiv 1805.01978), section 3.4: cosine similarity, the k nearest vote with weight exp(similarity / T).
Shapes: n features in the bank, m queries, width D, C classes.
"""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn.functional import normalize


@torch.no_grad()
def knn_scores(queries: Tensor, bank: Tensor, labels: Tensor, *, k: int, temperature: float, classes: int) -> Tensor:
    """Return each query's vote per class: score_c = sum over the k nearest i of class c of exp(cos(q, x_i) / T).

    The weights are relative to the nearest neighbour's, which rescales a query's scores and keeps them finite.

    Args:
        queries: (m, D), any length.
        bank: (n, D), any length.
        labels: (n,) in 0 … classes - 1.
        k: number of neighbours, capped at n.
        temperature: T.
        classes: C.

    Returns:
        (m, C) float32.

    """
    nearest = _find_nearest(queries, normalize(bank.float(), dim=1), labels, k)
    return _vote(*nearest, temperature=temperature, classes=classes)


@torch.no_grad()
def classify_knn(
    queries: Tensor, bank: Tensor, labels: Tensor, *, k: int, temperature: float, chunk: int = 512
) -> Tensor:
    """Return the class (m,) with the largest score for each query, `chunk` queries at a time.

    Memory beyond the inputs: one normalised copy of the bank, and (chunk, n) similarities.
    """
    classes = int(labels.max()) + 1
    return classify_knn_in_blocks(queries, [(bank, labels)], k=k, temperature=temperature, classes=classes, chunk=chunk)


@torch.no_grad()
def classify_knn_in_blocks(
    queries: Tensor,
    blocks: Iterable[tuple[Tensor, Tensor]],
    *,
    k: int,
    temperature: float,
    classes: int,
    chunk: int = 512,
) -> Tensor:
    """Return the class (m,) with the largest score for each query, from a bank given in blocks of (rows, labels).

    The bank is read once; only the k nearest neighbours so far are kept per query.
    Memory beyond the queries: a block and its normalised copy, (chunk, block) similarities, (m, k) neighbours.
    """
    parts = torch.split(queries, chunk)
    nearest: list[tuple[Tensor, Tensor]] = []
    for rows, labels in blocks:
        bank = normalize(rows.float(), dim=1)
        found = [_find_nearest(part, bank, labels, k) for part in parts]
        nearest = [_merge(*pair, k) for pair in zip(nearest, found, strict=True)] if nearest else found
    votes = [_vote(*pair, temperature=temperature, classes=classes).argmax(dim=1) for pair in nearest]
    return torch.cat(votes)


def _find_nearest(queries: Tensor, bank: Tensor, labels: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the similarities (m, k), largest first, and labels (m, k) of the nearest rows of a unit-length bank."""
    similarity = normalize(queries.float(), dim=1) @ bank.T  # (m, n)
    nearest, where = similarity.topk(min(k, len(bank)), dim=1)
    return nearest, labels[where]


def _merge(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor], k: int) -> tuple[Tensor, Tensor]:
    """Return the k nearest of two sets of neighbours, (m, k) similarities and labels."""
    similarity, labels = (torch.cat(pair, dim=1) for pair in zip(first, second, strict=True))
    nearest, where = similarity.topk(min(k, similarity.shape[1]), dim=1)
    return nearest, labels.gather(1, where)


def _vote(nearest: Tensor, labels: Tensor, *, temperature: float, classes: int) -> Tensor:
    """Return the votes (m, C) of neighbours (m, k), the nearest first."""
    weights = ((nearest - nearest[:, :1]) / temperature).exp()
    scores = torch.zeros(len(nearest), classes, device=nearest.device)
    return scores.scatter_add_(1, labels, weights)
