"""Classify by the nearest neighbours in feature space: no training, nothing to tune.

Source: Wu, Xiong, Yu and Lin, "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", CVPR 2018
(arXiv 1805.01978), section 3.4; k = 200 and T = 0.07. The vote itself is pretrain/monitoring/knn_vote.py.
"""

import time
from dataclasses import dataclass
from pathlib import Path

from pretrain.monitoring.knn_vote import classify_knn
from pretrain.runtime.progress import Heartbeat
from pretrain.runtime.settings import as_dict
from pretrain.runtime.stopping import StopFlag, YieldRequested
from pretrain.runtime.storage import digest_file
from transfer.collectives import is_main
from transfer.probes.features import (
    FeatureConfig,
    Features,
    FrozenBackbone,
    check_feature_config,
    choose_device,
    extract_features,
    find_split,
    list_deviations,
)
from transfer.process_group import world_size
from transfer.results.run_result import RunResult, write_result

PROTOCOLS: dict[str, dict[str, object]] = {
    "knn-in1k": {
        "k": 200, "temperature": 0.07, "resize_px": 256, "crop_px": 224, "train_images": 0, "val_images": 0,
    },
    "knn-digits": {
        "k": 20, "temperature": 0.07, "resize_px": 54, "crop_px": 48, "train_images": 1000, "val_images": 400,
    },
}  # fmt: skip
"""The recipes by name. The digits one has 100 training images a class, so k is a tenth of ImageNet's."""


@dataclass(frozen=True, kw_only=True)
class KnnConfig(FeatureConfig):
    """One kNN classification."""

    protocol: str = "knn-in1k"
    k: int = 200
    """Neighbours that vote."""
    temperature: float = 0.07
    """T of a neighbour's weight exp(similarity / T)."""
    chunk: int = 512
    """Queries compared at a time."""


def check_knn_config(config: KnnConfig) -> None:
    """Raise ValueError with every mistake in the settings."""
    mistakes = check_feature_config(config)
    mistakes += [
        f"{key}: expected at least 1, got {getattr(config, key)}" for key in ("k", "chunk") if getattr(config, key) < 1
    ]
    if not config.temperature > 0:
        mistakes.append(f"temperature: expected more than 0, got {config.temperature}")
    if mistakes:
        raise ValueError("\n".join(mistakes))


def run_knn(config: KnnConfig, weights: Path, stop: StopFlag) -> RunResult:
    """Take the features of both splits, let the neighbours vote, write and return the result.

    A stop request ends it with YieldRequested; it then begins anew, since all of it takes one pass over the images.
    """
    began, out = time.monotonic(), Path(config.out)
    deviations = list_deviations(PROTOCOLS, config)
    device = choose_device(config.device)
    model = FrozenBackbone(weights, device, config.precision)
    splits = {split: _take_features(model, config, split, stop) for split in ("train", "val")}
    train, val = splits["train"], splits["val"]
    predicted = classify_knn(
        val.values.to(device),
        train.values.to(device),
        train.labels.to(device),
        k=config.k,
        temperature=config.temperature,
        chunk=config.chunk,
    ).cpu()
    right = predicted == val.labels
    per_class = {name: 100 * right[val.labels == label].float().mean().item() for label, name in enumerate(val.classes)}
    result = RunResult(
        backbone=config.backbone or weights.stem,
        protocol=config.protocol,
        seed=config.seed,
        metrics={"top1": 100 * right.double().mean().item()},
        deviations=deviations,
        weights_sha256=digest_file(weights),
        seconds=time.monotonic() - began,
        details={"per_class": per_class, "train": len(train.labels), "val": len(val.labels), "config": as_dict(config)},
    )
    if is_main():
        write_result(out, result)
    return result


def _take_features(model: FrozenBackbone, config: KnnConfig, split: str, stop: StopFlag) -> Features:
    heartbeat = Heartbeat(config.out, len(find_split(config, split)), unit="images")

    def after_batch(done: int) -> None:
        heartbeat.beat(done, f"features of {split}")
        if stop.is_set and world_size() == 1:
            raise YieldRequested(stop.reason)

    return extract_features(model, config, split, after_batch=after_batch)
