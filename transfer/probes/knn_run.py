"""Classify images by a k-nearest-neighbour vote in feature space, without training.

Source: Wu, Xiong, Yu and Lin, "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", CVPR 2018
(arXiv 1805.01978), section 3.4; k = 200 and T = 0.07. pretrain/monitoring/knn_vote.py computes the vote.
"""

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pretrain.monitoring.knn_vote import classify_knn_in_blocks
from pretrain.runtime import distributed
from pretrain.runtime.progress import Heartbeat
from pretrain.runtime.settings import as_dict
from pretrain.runtime.stopping import StopFlag, YieldRequested
from transfer.metrics.bootstrap import bootstrap_accuracy, summarise_draws, write_draws
from transfer.probes.features import (
    FeatureConfig,
    Features,
    check_feature_config,
    extract_features,
    find_split,
    list_deviations,
    share_rows,
)
from transfer.probes.predictions import name_images, write_predictions
from transfer.results.run_result import RunResult, write_result
from transfer.weights.frozen_backbone import FrozenBackbone, choose_device

BANK_ROWS = 32_768
"""Bank rows on the device at a time: 256 MiB with 2048 features, and the same again for the normalised copy."""
FEATURES_FOLDER = "features"
"""Subfolder of OUT, deleted at the end of the run; 10.5 GB for ImageNet with a ResNet-50."""
PROTOCOLS: dict[str, dict[str, object]] = {
    "knn-in1k": {
        "k": 200, "temperature": 0.07, "resize_px": 256, "crop_px": 224, "train_images": 0, "val_images": 0,
    },
    "knn-digits": {
        "k": 20, "temperature": 0.07, "resize_px": 54, "crop_px": 48, "train_images": 1000, "val_images": 400,
    },
}  # fmt: skip
"""Protocols by name. The digits have 100 training images per class, so k is a tenth of ImageNet's."""


@dataclass(frozen=True, kw_only=True)
class KnnConfig(FeatureConfig):
    """Config of one kNN classification."""

    protocol: str = "knn-in1k"
    k: int = 200
    """Number of neighbours that vote."""
    temperature: float = 0.07
    """T in the weight of a neighbour, exp(similarity / T)."""
    chunk: int = 512
    """Queries per block of the similarity computation."""


def check_knn_config(config: KnnConfig) -> None:
    """Raise ValueError that lists every mistake in the config."""
    mistakes = check_feature_config(config)
    mistakes += [
        f"{key}: expected at least 1, got {getattr(config, key)}" for key in ("k", "chunk") if getattr(config, key) < 1
    ]
    if not config.temperature > 0:
        mistakes.append(f"temperature: expected more than 0, got {config.temperature}")
    if mistakes:
        raise ValueError("\n".join(mistakes))


def run_knn(config: KnnConfig, weights: Path, stop: StopFlag) -> RunResult:
    """Extract the features of both splits, classify the validation images, write and return the result.

    Each rank extracts the features of its share of the images and classifies its share of the queries against the
    bank, read block by block. Features of finished splits are reused on resume.

    Raises:
        ValueError: unusable weights or images, or an unknown protocol.
        YieldRequested: a stop was requested.

    """
    began, out = time.monotonic(), Path(config.out)
    deviations = list_deviations(PROTOCOLS, config)
    model = FrozenBackbone(weights, choose_device(config.device), config.precision)
    train, val = (_take_features(model, config, split, stop) for split in ("train", "val"))
    predicted = predict_knn(train, val, config, model.device)
    right = predicted == val.labels
    per_class = {name: 100 * right[val.labels == label].float().mean().item() for label, name in enumerate(val.classes)}
    draws = {"top1": bootstrap_accuracy(name_images(val.source), right.numpy())}
    result = RunResult(
        backbone=config.backbone or weights.stem,
        protocol=config.protocol,
        seed=config.seed,
        metrics={"top1": draws["top1"].value},
        deviations=deviations,
        weights_sha256=model.digest,
        seconds=time.monotonic() - began,
        details={
            "per_class": per_class,
            "bootstrap": summarise_draws(draws),
            "train": len(train.labels),
            "val": len(val.labels),
            "config": as_dict(config),
        },
    )
    if distributed.is_main():
        write_predictions(out, val.source, predicted.numpy())
        write_draws(out, draws)
        write_result(out, result)
        shutil.rmtree(out / FEATURES_FOLDER, ignore_errors=True)
    return result


def predict_knn(train: Features, val: Features, config: KnnConfig, device: torch.device) -> Tensor:
    """Return the predicted class (n,) of every image of `val` on every rank; each rank classifies its share."""
    mine = share_rows(len(val.labels), distributed.world_size(), config.chunk)[distributed.rank()]
    predicted = torch.zeros(len(val.labels), dtype=torch.int64)
    predicted[mine.start : mine.stop] = classify_knn_in_blocks(
        val.values[mine.start : mine.stop].to(device),
        _read_bank(train, device),
        k=config.k,
        temperature=config.temperature,
        classes=len(train.classes),
        chunk=config.chunk,
    ).cpu()
    return distributed.sum_in_place(predicted)


def _read_bank(train: Features, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    for begin in range(0, len(train.labels), BANK_ROWS):
        rows = slice(begin, begin + BANK_ROWS)
        yield train.values[rows].to(device), train.labels[rows].to(device)


def _take_features(model: FrozenBackbone, config: KnnConfig, split: str, stop: StopFlag) -> Features:
    main = distributed.is_main()
    heartbeat = Heartbeat(config.out, len(find_split(config, split)), unit="images", writes=main)

    def after_batch(done: int) -> None:
        heartbeat.beat(done, f"features of {split}")
        if any(distributed.any_rank(stop.is_set)):
            raise YieldRequested(stop.reason or "another rank received a stop request")

    return extract_features(model, config, split, Path(config.out) / FEATURES_FOLDER, after_batch=after_batch)
