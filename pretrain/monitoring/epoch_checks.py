"""Look at an encoder after an epoch: kNN accuracy on held-out images, and the paper's monitors of its negatives."""

import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pretrain.config import MixingConfig, PretrainConfig
from pretrain.input.images import ImageFolder, list_images
from pretrain.input.labelled_images import centre_crop, normalise_images, take_evenly
from pretrain.key_queue import KnownKeys
from pretrain.methods import Method
from pretrain.mixing import draw_mixes
from pretrain.monitoring.diagnostics import (
    TOP,
    class_alignment,
    class_geometry,
    hardness_curve,
    same_class_by_rank,
    same_class_parents,
    same_class_share,
    uniformity,
)
from pretrain.monitoring.knn_vote import classify_knn
from pretrain.runtime import distributed

BANK_IMAGES, QUERY_IMAGES = 10_000, 2_000
"""At most so many training images vote for so many held-out ones: a monitor, not the kNN protocol."""
NEIGHBOURS, KNN_TEMPERATURE = 20, 0.07
RESIZE = 256 / 224
"""The shorter side before the centre crop, in crops [MoCo, main_lincls.py]."""
BATCH = 128
GEOMETRY_KEYS = 4096
"""So many of the newest keys tell how the classes lie."""
logger = logging.getLogger(__name__)


class EpochMonitors:
    """What is measured every so many epochs, on the main process."""

    def __init__(self, config: PretrainConfig, device: torch.device) -> None:
        """Find the images; ValueError when the monitor is asked for and ROOT/val is not there."""
        self._config, self._device, self._since = config, device, time.perf_counter()
        self._splits: dict[str, ImageFolder] = {}
        if config.run.knn_every_epochs and distributed.is_main():
            for split, limit in (("train", BANK_IMAGES), ("val", QUERY_IMAGES)):
                folder = list_images(Path(config.data.root) / split, config.data.class_list)
                self._splits[split] = take_evenly(folder, limit) if limit < len(folder) else folder

    def after_epoch(self, model: Method, epoch: int) -> dict[str, Any]:
        """Return what is due after `epoch` (from 0): knn_top1 in percent, what `measure_negatives` finds, their cost.

        monitor_cost is the time they took in percent of the training's since the last look, which is also printed.
        """
        run, values, began = self._config.run, dict[str, Any](), time.perf_counter()
        if not distributed.is_main():
            return values
        if run.knn_every_epochs and (epoch + 1) % run.knn_every_epochs == 0:
            values["knn_top1"] = self.measure_knn(model)
        if run.analyse_every_epochs and (epoch + 1) % run.analyse_every_epochs == 0:
            values |= measure_negatives(model, self._config.model.temperature)
        if values:
            ended = time.perf_counter()
            values["monitor_cost"] = round(100 * (ended - began) / max(began - self._since, 1e-9), 3)
            logger.info("monitors after epoch %d: %.2f %% of a step", epoch + 1, values["monitor_cost"])
            self._since = ended
        return values

    def measure_knn(self, model: nn.Module) -> float:
        """Return the share (%) of held-out images whose neighbours among the training images name their class."""
        encoder = model.get_submodule("encoder_q")
        bank, labels = self._extract(encoder, "train")
        queries, expected = self._extract(encoder, "val")
        predicted = classify_knn(queries, bank, labels, k=NEIGHBOURS, temperature=KNN_TEMPERATURE)
        return 100 * (predicted == expected).double().mean().item()

    @torch.no_grad()
    def _extract(self, encoder: nn.Module, split: str) -> tuple[Tensor, Tensor]:
        head, encoder.fc = encoder.get_submodule("fc"), nn.Identity()
        encoder.eval()
        try:
            parts = [encoder(images).float() for images in self._read(split)]
        finally:
            encoder.fc = head
            encoder.train()
        return torch.cat(parts), torch.from_numpy(self._splits[split].labels).to(self._device)

    def _read(self, split: str) -> Iterator[Tensor]:
        folder, crop_px = self._splits[split], self._config.data.crop_px
        for begin in range(0, len(folder), BATCH):
            rows = range(begin, min(begin + BATCH, len(folder)))
            crops = [centre_crop(folder.read(row), round(RESIZE * crop_px), crop_px) for row in rows]
            images = torch.stack([torch.from_numpy(crop) for crop in crops]).permute(0, 3, 1, 2)
            yield normalise_images(images, self._device)


@torch.no_grad()
def measure_negatives(model: Method, temperature: float) -> dict[str, Any]:
    """Return the paper's analyses of the negatives: what is hard, what is falsely negative, how the classes lie.

    The negatives are MoCo's queue or SimCLR's latest batch. The newest of them stand for queries, so that no image is
    read again: the cost is a product of (B, D) and (K, D).

    Returns:
        hardness (the curve) and hardest_share; in percent false_negatives (among the hardest), oracle_share (of the
        denominator, which the class oracle would take out) and, with mixing, mixes_pair_one, mixes_pair_both and
        mixes_query (mixes with parents of the query's class); and those of `measure_classes`. Empty while no class
        is known.

    """
    known = model.known_keys()
    if known is None:
        return {}
    chosen = torch.nonzero(known.labels[:BATCH] >= 0).flatten()
    if not len(chosen):
        return {}
    queries, classes = known.keys[chosen], known.labels[chosen]
    own = known.indices[chosen][:, None] == known.indices  # no image against itself
    cosines = queries @ known.keys.T
    logits = (cosines / temperature).masked_fill(own, -torch.inf)
    top = max(1, min(TOP, len(known.keys) - int(own.sum(dim=1).max())))
    curve = hardness_curve(logits, top)
    wrong = same_class_by_rank(logits, classes, known.labels, top)
    return {
        "hardness": [round(value, 8) for value in curve.tolist()],
        "hardest_share": curve[0].item(),
        "false_negatives": 100 * wrong.mean().item(),
        "oracle_share": 100 * same_class_share(logits, classes, known.labels),
        **_measure_parents(model.mixing, cosines, classes, known, own),
        **measure_classes(known),
    }


@torch.no_grad()
def measure_classes(known: KnownKeys) -> dict[str, float]:
    """Return how the classes of the newest keys lie, in the head's space; empty without classes to compare.

    alignment, uniformity, intra_variance, inter_distance and separation: see `pretrain.monitoring.diagnostics`.
    """
    keys, labels = known.keys[:GEOMETRY_KEYS], known.labels[:GEOMETRY_KEYS]
    keys, labels = keys[labels >= 0], labels[labels >= 0]
    counts = torch.unique(labels, return_counts=True)[1]
    if len(counts) < 2 or int(counts.max()) < 2:
        return {}
    geometry = class_geometry(keys, labels)
    return {
        "alignment": class_alignment(keys, labels),
        "uniformity": uniformity(keys),
        "intra_variance": geometry.intra_variance,
        "inter_distance": geometry.inter_distance,
        "separation": geometry.separation,
    }


def _measure_parents(
    settings: MixingConfig, cosines: Tensor, classes: Tensor, known: KnownKeys, own: Tensor
) -> dict[str, float]:
    """Return the shares (%) of mixes with parents of the query's class, over mixes drawn as the training draws them."""
    if not settings.is_on or settings.is_synco:
        return {}
    generator = torch.Generator(device=cosines.device).manual_seed(0)  # the training's own draws stay as they were
    parents = draw_mixes(cosines, known.keys, settings, generator=generator, exclude=own).parents
    found: dict[str, float] = {}
    if settings.s:
        of_pairs = same_class_parents(parents[..., : settings.s].permute(1, 2, 0), classes, known.labels)
        found |= {"mixes_pair_one": 100 * of_pairs["one"], "mixes_pair_both": 100 * of_pairs["both"]}
    if settings.s_prime:
        of_singles = same_class_parents(parents[1, :, settings.s :, None], classes, known.labels)
        found["mixes_query"] = 100 * of_singles["one"]
    return found
