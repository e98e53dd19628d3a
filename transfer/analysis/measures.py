"""Run every analysis of one encoder and collect the results in tables: one row per encoder, class or rank.

The formulas are in `pretrain.monitoring.diagnostics`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pretrain.config import MixingConfig
from pretrain.mixing import draw_mixes
from pretrain.monitoring import diagnostics
from transfer.analysis.config import AnalysisConfig
from transfer.analysis.embeddings import Embeddings, Encoder

DEFINITIONS = {
    "hardness_histogram": "mean over queries of the r-th largest softmax(q·n / tau) over the negatives",
    "proxy_accuracy": "share of queries whose q·k exceeds every q·n, without and with mixed negatives",
    "false_negatives": "share of negatives of the query's own class among its r hardest; and mixes with such parents",
    "oracle": "InfoNCE and proxy accuracy with all negatives, and without those of the query's class",
    "alignment_uniformity": "mean ‖x−y‖² over pairs of one class (and over two views); log mean exp(−2‖x−y‖²)",
    "class_distances": "per class: mean ‖x−μ‖², and mean ‖μ−μ′‖ over the other classes",
}
"""Definition of each analysis; the keys name its files and figures."""

Row = dict[str, Any]


@dataclass
class Tables:
    """The rows of every analysis, over all encoders."""

    rows: dict[str, list[Row]] = field(default_factory=lambda: {name: [] for name in DEFINITIONS})

    def add(self, analysis: str, encoder: str, **values: Any) -> None:
        """Append a row that starts with the encoder's name."""
        self.rows[analysis].append({"encoder": encoder, **values})


@torch.no_grad()
def analyse(
    encoder: Encoder, embeddings: Embeddings, config: AnalysisConfig, *, use_queue: bool, tables: Tables
) -> None:
    """Run every analysis of one encoder and add its rows to `tables`."""
    _analyse_queries(encoder, embeddings, config, use_queue, tables)
    _analyse_classes(encoder.name, embeddings, tables)


def _analyse_queries(
    encoder: Encoder, embeddings: Embeddings, config: AnalysisConfig, use_queue: bool, tables: Tables
) -> None:
    keys, labels = embeddings.keys, embeddings.labels
    if use_queue:
        assert encoder.queue is not None
        keys = encoder.queue
        labels = torch.full((len(keys),), -1) if encoder.queue_labels is None else encoder.queue_labels
    known = bool((labels >= 0).any())
    chunks = list(_measure_chunks(embeddings, keys, labels, config, own_keys=not use_queue))
    total = _average(chunks)
    name = encoder.name
    for rank, share in enumerate(total["hardness"].tolist(), 1):
        tables.add("hardness_histogram", name, rank=rank, probability=share)
    tables.add("proxy_accuracy", name, real=total["proxy"].item(), with_mixes=total["proxy_mixed"].item())
    if not known:
        return
    cumulative = total["same"].cumsum(0) / torch.arange(1, len(total["same"]) + 1)
    chance = _chance(embeddings.labels, labels, own_keys=not use_queue)
    for rank, (share, so_far) in enumerate(zip(total["same"].tolist(), cumulative.tolist(), strict=True), 1):
        tables.add("false_negatives", name, kind="rank", rank=rank, share=share, share_up_to_rank=so_far, chance=chance)
    for kind, share in zip(("pair_one", "pair_both", "query_mix"), total["parents"].tolist(), strict=True):
        tables.add("false_negatives", name, kind=kind, rank=None, share=share, share_up_to_rank=None, chance=None)
    loss, loss_oracle, accuracy, accuracy_oracle = total["oracle"].tolist()
    tables.add("oracle", name, loss=loss, loss_oracle=loss_oracle, accuracy=accuracy, accuracy_oracle=accuracy_oracle)


@dataclass(frozen=True)
class _Chunk:
    """Cosines of B queries with all K keys."""

    positive: Tensor  # q·k, (B,)
    cosines: Tensor  # q·n, (B, K)
    own: Tensor  # (B, K) bool, keys of the query's own image, which are not negatives
    query_labels: Tensor  # (B,)


def _measure_chunks(
    embeddings: Embeddings, keys: Tensor, labels: Tensor, config: AnalysisConfig, *, own_keys: bool
) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """Yield (number of queries, means over them) per chunk; the second view of a query's image is not a negative."""
    generator = torch.Generator().manual_seed(config.seed)
    for begin in range(0, len(embeddings.queries), config.batch):
        rows = slice(begin, begin + config.batch)
        queries = embeddings.queries[rows]
        own = torch.zeros(len(queries), len(keys), dtype=torch.bool)
        if own_keys:
            own[torch.arange(len(queries)), torch.arange(begin, begin + len(queries))] = True
        positive = (queries * embeddings.keys[rows]).sum(dim=1)
        chunk = _Chunk(positive, queries @ keys.T, own, embeddings.labels[rows])
        yield len(queries), _measure_chunk(chunk, keys, labels, config, generator)


def _measure_chunk(
    chunk: _Chunk, keys: Tensor, labels: Tensor, config: AnalysisConfig, generator: torch.Generator
) -> dict[str, Tensor]:
    mixing = MixingConfig(n=config.n, s=config.s, s_prime=config.s_prime)
    exclude = chunk.own if bool(chunk.own.any()) else None
    mixes = draw_mixes(chunk.cosines, keys, mixing, generator=generator, exclude=exclude)
    positive = chunk.positive / config.temperature
    logits = chunk.cosines.masked_fill(chunk.own, -torch.inf) / config.temperature
    synthetic = mixes.cosines / config.temperature
    top = min(config.top, len(keys) - int(exclude is not None))
    pairs = mixes.parents[..., : config.s].permute(1, 2, 0)  # (B, s, 2)
    singles = mixes.parents[1, :, config.s :, None]  # (B, s', 1)
    of_pairs = diagnostics.same_class_parents(pairs, chunk.query_labels, labels)
    of_singles = diagnostics.same_class_parents(singles, chunk.query_labels, labels)
    oracle = diagnostics.compare_with_oracle(positive, logits, chunk.query_labels, labels)
    return {
        "hardness": diagnostics.hardness_curve(logits, top),
        "proxy": diagnostics.proxy_hits(positive, logits).double().mean(),
        "proxy_mixed": diagnostics.proxy_hits(positive, logits, synthetic).double().mean(),
        "same": diagnostics.same_class_by_rank(logits, chunk.query_labels, labels, top),
        "parents": torch.tensor([of_pairs["one"], of_pairs["both"], of_singles["one"]]),
        "oracle": torch.tensor([oracle.loss, oracle.loss_oracle, oracle.accuracy, oracle.accuracy_oracle]),
    }


def _average(chunks: Sequence[tuple[int, Mapping[str, Tensor]]]) -> dict[str, Tensor]:
    total = sum(count for count, _ in chunks)
    return {
        key: torch.stack([values[key].double() * (count / total) for count, values in chunks]).sum(dim=0)
        for key in chunks[0][1]
    }


def _chance(query_labels: Tensor, key_labels: Tensor, *, own_keys: bool) -> float:
    """Return the expected share of same-class negatives if hardness is independent of the class."""
    counts = torch.bincount(key_labels[key_labels >= 0], minlength=int(query_labels.max()) + 1).double()
    return ((counts[query_labels] - int(own_keys)) / (len(key_labels) - int(own_keys))).mean().item()


def _analyse_classes(name: str, embeddings: Embeddings, tables: Tables) -> None:
    features, labels = embeddings.features, embeddings.labels
    tables.add(
        "alignment_uniformity",
        name,
        alignment_of_classes=diagnostics.class_alignment(features, labels),
        alignment_of_views=diagnostics.pair_alignment(embeddings.queries, embeddings.keys),
        uniformity=diagnostics.uniformity(features),
    )
    geometry = diagnostics.class_geometry(features, labels)
    for label, variance, distance, nearest in zip(
        geometry.classes.tolist(),
        geometry.variance.tolist(),
        geometry.distance.tolist(),
        geometry.nearest.tolist(),
        strict=True,
    ):
        tables.add(
            "class_distances",
            name,
            kind=embeddings.classes[label],
            intra_variance=variance,
            inter_distance=distance,
            nearest_distance=nearest,
            separation=None,
        )
    tables.add(
        "class_distances",
        name,
        kind="mean",
        intra_variance=geometry.intra_variance,
        inter_distance=geometry.inter_distance,
        nearest_distance=geometry.nearest.mean().item(),
        separation=geometry.separation,
    )
