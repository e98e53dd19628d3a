"""Diagnostics of the negatives of a query and of the class geometry of embeddings; pure tensor functions.

Shapes: B queries, K negatives, S synthetic negatives per query, n embeddings of width D, C classes.
Sums over many entries use float64; no tensor exceeds the inputs or CHUNK x CHUNK.

Sources: [MoCHi] Kalantidis et al., "Hard Negative Mixing for Contrastive Learning", NeurIPS 2020, sections 3 and 5;
[WI] Wang and Isola, "Understanding Contrastive Representation Learning through Alignment and Uniformity on the
Hypersphere", ICML 2020, section 4.1.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

TOP = 1024
"""Number of hardest negatives in the hardness curve and the false-negative counts [MoCHi, figure 2]."""
CHUNK = 2048
"""Rows per block of the pairwise distances: 2048 x 2048 float32 values are 16 MiB."""


@torch.no_grad()
def hardness_curve(negatives: Tensor, top: int = TOP) -> Tensor:
    """Return the probability of the hardest, second hardest, … negative, averaged over the queries.

    p_r = mean over queries of the r-th largest entry of softmax(negatives). The softmax is over the negatives only, so
    the curve sums to at most 1 [MoCHi, figure 2a]. A flat curve means that all negatives have equal weight.

    Args:
        negatives: logits q·n / tau, (B, K).
        top: number of ranks, capped at K.

    Returns:
        (min(top, K),) float64, non-increasing.

    """
    shares = negatives.float().softmax(dim=1)  # (B, K)
    return shares.topk(min(top, shares.shape[1]), dim=1).values.double().mean(dim=0)


@torch.no_grad()
def proxy_hits(positive: Tensor, negatives: Tensor, synthetic: Tensor | None = None) -> Tensor:
    """Return which queries solve the proxy task, i.e. the positive's logit exceeds every negative's.

    Args:
        positive: q·k, (B,).
        negatives: q·n, (B, K).
        synthetic: q·h of the mixed negatives, (B, S); None counts the real ones only. Report both: mixes make the task
            harder by design, so accuracies with and without them are not comparable.

    Returns:
        (B,) bool; its mean is the proxy accuracy [MoCHi, figure 2b].

    """
    hardest = negatives.max(dim=1).values
    if synthetic is not None and synthetic.shape[1] > 0:
        hardest = torch.maximum(hardest, synthetic.max(dim=1).values)
    return positive > hardest


@torch.no_grad()
def same_class_by_rank(negatives: Tensor, query_labels: Tensor, key_labels: Tensor, top: int = TOP) -> Tensor:
    """Return, for each rank of hardness, the fraction of queries whose negative of that rank has their own class.

    The mean over the ranks is the fraction of false negatives among the `top` hardest logits [MoCHi, section 3.2].

    Args:
        negatives: logits, (B, K).
        query_labels: (B,).
        key_labels: class of each negative, (K,); a negative number marks an unknown class, which matches none.
        top: number of ranks, capped at K.

    Returns:
        (min(top, K),) float64 in [0, 1].

    """
    hardest = negatives.topk(min(top, negatives.shape[1]), dim=1).indices  # (B, top)
    return (key_labels[hardest] == query_labels[:, None]).double().mean(dim=0)


@torch.no_grad()
def same_class_parents(parents: Tensor, query_labels: Tensor, key_labels: Tensor) -> dict[str, float]:
    """Return the fraction of mixes with parents of the query's own class [MoCHi, section 5, "false negatives"].

    Args:
        parents: indices of the mixed negatives into the keys, (B, S, 2) for pair mixes, (B, S, 1) for query mixes.
        query_labels: (B,).
        key_labels: (K,).

    Returns:
        {"one": at least one parent of the query's class, "both": all parents}; fractions in [0, 1].

    """
    same = key_labels[parents] == query_labels[:, None, None]  # (B, S, parents)
    return {"one": same.any(dim=2).double().mean().item(), "both": same.all(dim=2).double().mean().item()}


@torch.no_grad()
def same_class_share(negatives: Tensor, query_labels: Tensor, key_labels: Tensor) -> float:
    """Return the fraction of the negatives' probability on the query's own class, averaged over the queries.

    This is what the class oracle removes from InfoNCE's denominator [MoCHi, section 3.2]; at chance it equals the
    fraction of such keys.

    Args: as `same_class_by_rank`.
    """
    same = key_labels[None] == query_labels[:, None]  # (B, K)
    return negatives.float().softmax(dim=1).masked_fill(~same, 0.0).double().sum(dim=1).mean().item()


@dataclass(frozen=True)
class OracleComparison:
    """InfoNCE and proxy accuracy with all negatives, and with those of the query's class removed."""

    loss: float
    loss_oracle: float
    accuracy: float
    accuracy_oracle: float


@torch.no_grad()
def compare_with_oracle(
    positive: Tensor, negatives: Tensor, query_labels: Tensor, key_labels: Tensor
) -> OracleComparison:
    """Compare a step's loss and proxy accuracy with those of the class oracle [MoCHi, section 3.2].

    loss = mean of -log( exp(p) / (exp(p) + sum over n of exp(n)) ) for logits p, n over tau; the oracle's sum excludes
    every negative of the query's class. The difference is the cost of false negatives.

    Args:
        positive: q·k / tau, (B,).
        negatives: q·n / tau, (B, K).
        query_labels: (B,).
        key_labels: (K,).

    """
    same = key_labels[None] == query_labels[:, None]  # (B, K)
    positive, negatives = positive.double(), negatives.double()
    others = negatives.masked_fill(same, -math.inf)
    values = []
    for logits in (negatives, others):
        total = torch.logaddexp(positive, logits.logsumexp(dim=1))
        values.append((total - positive).mean().item())
        values.append(proxy_hits(positive, logits).double().mean().item())
    return OracleComparison(loss=values[0], accuracy=values[1], loss_oracle=values[2], accuracy_oracle=values[3])


@torch.no_grad()
def pair_alignment(x: Tensor, y: Tensor) -> float:
    """Return mean ||x_i - y_i||² over the rows: the alignment of positive pairs, alpha = 2 [WI, equation 2]."""
    pairs = zip(torch.split(x, CHUNK), torch.split(y, CHUNK), strict=True)
    return torch.cat([_row_squares(rows.double() - others.double()) for rows, others in pairs]).mean().item()


@torch.no_grad()
def class_alignment(x: Tensor, labels: Tensor) -> float:
    """Return mean ||x - y||² over all unordered pairs of the same class, alpha = 2 [WI; MoCHi, section 5.3].

    Pairs are not materialised: for a class of m points with sum s, the squared distances of its pairs sum to
    m · sum ||x_i||² - ||s||².

    Args:
        x: embeddings, (n, D), of unit length if results are to be compared.
        labels: (n,) integers.

    Raises:
        ValueError: no two points have the same class.

    """
    sums, counts = _class_sums(x, labels)
    squares = torch.zeros(len(counts), dtype=torch.float64, device=x.device)
    squares.index_add_(0, _class_positions(labels)[1], _row_squares(x))
    pairs = (counts * (counts - 1) / 2).sum()
    if pairs == 0:
        raise ValueError(f"alignment: expected two points of one class; got {len(labels)} points of as many classes")
    return ((counts * squares - sums.square().sum(dim=1)).sum() / pairs).item()


@torch.no_grad()
def uniformity(x: Tensor, *, t: float = 2.0, chunk: int = CHUNK) -> float:
    """Return log mean exp(-t ||x - y||²) over all unordered pairs of different rows [WI, equation 3].

    0 if all rows are equal; the lower, the more evenly the points cover the sphere (-2 t if all are orthogonal).
    Computed block by block over the upper triangle.

    Args:
        x: embeddings of unit length, (n, D), n >= 2.
        t: inverse squared width of the kernel.
        chunk: rows per block.

    Raises:
        ValueError: n < 2.

    """
    n = len(x)
    if n < 2:
        raise ValueError(f"uniformity: expected at least two points; got {n}")
    blocks = torch.split(x.float(), chunk)
    squares = [block.square().sum(dim=1) for block in blocks]
    total = torch.zeros((), dtype=torch.float64, device=x.device)
    for row, block in enumerate(blocks):
        for column in range(row, len(blocks)):
            distances = squares[row][:, None] + squares[column][None] - 2 * block @ blocks[column].T
            kernel = distances.clamp_(min=0).mul_(-t).exp_()
            total += kernel.triu(diagonal=1).double().sum() if row == column else kernel.double().sum()
    return (total / (n * (n - 1) / 2)).log().item()


@dataclass(frozen=True)
class ClassGeometry:
    """Spread of each class, and distances between the classes."""

    classes: Tensor  # (C,) the labels, ascending
    counts: Tensor  # (C,)
    variance: Tensor  # (C,) mean_i ||x_i - mu_c||², float64
    distance: Tensor  # (C,) mean over the other classes of ||mu_c - mu_c'||, float64
    nearest: Tensor  # (C,) the smallest of these distances, float64

    @property
    def intra_variance(self) -> float:
        """Mean over c of mean_i ||x_i - mu_c||², with equal weight for every class."""
        return self.variance.mean().item()

    @property
    def inter_distance(self) -> float:
        """Mean over c != c' of ||mu_c - mu_c'||."""
        return self.distance.mean().item()

    @property
    def separation(self) -> float:
        """inter_distance / sqrt(intra_variance): class distance in units of class spread; infinite at zero spread."""
        return self.inter_distance / math.sqrt(self.intra_variance) if self.intra_variance > 0 else math.inf


@torch.no_grad()
def class_geometry(x: Tensor, labels: Tensor) -> ClassGeometry:
    """Return the variance of every class and the distances between class means.

    Shows whether inter-class distance grows more than intra-class variance. Memory beyond x: C x D and C x C.

    Args:
        x: embeddings, (n, D); of unit length if backbones are to be compared.
        labels: (n,) integers of at least two classes.

    Raises:
        ValueError: fewer than two classes.

    """
    classes, positions = _class_positions(labels)
    if len(classes) < 2:
        raise ValueError(f"class geometry: expected at least two classes; got {len(classes)}")
    sums, counts = _class_sums(x, labels)
    means = sums / counts[:, None]  # (C, D)
    variance = torch.zeros(len(classes), dtype=torch.float64, device=x.device)
    for rows, where in zip(torch.split(x, CHUNK), torch.split(positions, CHUNK), strict=True):
        variance.index_add_(0, where, (rows.double() - means[where]).square().sum(dim=1))
    apart = torch.cdist(means, means, compute_mode="donot_use_mm_for_euclid_dist")
    distance = apart.sum(dim=1) / (len(classes) - 1)
    nearest = apart.fill_diagonal_(math.inf).min(dim=1).values
    return ClassGeometry(classes, counts.long(), variance / counts, distance, nearest)


def _class_positions(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the distinct labels (C,), ascending, and each row's position among them (n,)."""
    classes, positions = torch.unique(labels, sorted=True, return_inverse=True)
    return classes, positions


def _class_sums(x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sum of each class's rows (C, D) and its number of rows (C,), both float64."""
    classes, positions = _class_positions(labels)
    sums = torch.zeros(len(classes), x.shape[1], dtype=torch.float64, device=x.device)
    for rows, where in zip(torch.split(x, CHUNK), torch.split(positions, CHUNK), strict=True):
        sums.index_add_(0, where, rows.double())
    return sums, torch.bincount(positions, minlength=len(classes)).double()


def _row_squares(x: Tensor) -> Tensor:
    return torch.cat([rows.double().square().sum(dim=1) for rows in torch.split(x, CHUNK)])
