"""Classify by the nearest neighbours in feature space: pure functions.

Source: Wu, Xiong, Yu and Lin, "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", CVPR 2018
(arXiv 1805.01978), section 3.4: cosine similarity, the k nearest vote with weight exp(similarity / T).
Shapes: n features in the bank, m queries, D wide, C classes.
"""

import torch
from torch import Tensor
from torch.nn.functional import normalize


@torch.no_grad()
def knn_scores(queries: Tensor, bank: Tensor, labels: Tensor, *, k: int, temperature: float, classes: int) -> Tensor:
    """Return each query's vote per class: score_c = sum over the k nearest i of class c of exp(cos(q, x_i) / T).

    The weights are taken relative to the nearest neighbour's, which scales a query's scores and keeps them finite.

    Args:
        queries: (m, D), any length.
        bank: (n, D), any length.
        labels: (n,) in 0 … classes - 1.
        k: neighbours; all of the bank when it has fewer.
        temperature: T.
        classes: C.

    Returns:
        (m, C) float32.

    """
    bank = normalize(bank.float(), dim=1)
    return _vote(queries, bank, labels, k=k, temperature=temperature, classes=classes)


@torch.no_grad()
def classify_knn(
    queries: Tensor, bank: Tensor, labels: Tensor, *, k: int, temperature: float, chunk: int = 512
) -> Tensor:
    """Return the class (m,) with the largest score for each query, `chunk` queries at a time.

    Memory beyond the inputs: one normalised copy of the bank, and (chunk, n) similarities.
    """
    classes = int(labels.max()) + 1
    bank = normalize(bank.float(), dim=1)
    parts = [
        _vote(part, bank, labels, k=k, temperature=temperature, classes=classes).argmax(dim=1)
        for part in torch.split(queries, chunk)
    ]
    return torch.cat(parts)


def _vote(queries: Tensor, bank: Tensor, labels: Tensor, *, k: int, temperature: float, classes: int) -> Tensor:
    """Return the votes (m, C) as `knn_scores` does, from a bank of unit length."""
    similarity = normalize(queries.float(), dim=1) @ bank.T  # (m, n)
    nearest, where = similarity.topk(min(k, len(bank)), dim=1)
    weights = ((nearest - nearest[:, :1]) / temperature).exp()
    scores = torch.zeros(len(queries), classes, device=queries.device)
    return scores.scatter_add_(1, labels[where], weights)
