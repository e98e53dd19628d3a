"""Evaluate an encoder after an epoch: kNN accuracy on held-out images, and the paper's diagnostics of its negatives."""

import logging
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from pretrain.config import MixingConfig, PretrainConfig
from pretrain.input.images import ImageFolder
from pretrain.input.labelled_images import centre_crop, find_images, normalise_images
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
"""Maximum numbers of training and held-out images; a quick check, not the kNN protocol."""
NEIGHBOURS, KNN_TEMPERATURE = 20, 0.07
RESIZE = 256 / 224
"""Shorter side before the centre crop, relative to the crop [MoCo, main_lincls.py]."""
BATCH = 128
GEOMETRY_KEYS = 4096
"""Number of newest keys used for the class geometry."""
logger = logging.getLogger(__name__)


class EpochChecks:
    """Evaluations every n epochs, on the main rank."""

    def __init__(self, config: PretrainConfig, device: torch.device) -> None:
        """List the images; ValueError if run.knn_every_epochs is set and ROOT/val does not exist."""
        self._config, self._device, self._since = config, device, time.perf_counter()
        self._splits: dict[str, ImageFolder] = {}
        if config.run.knn_every_epochs and distributed.is_main():
            for split, limit in (("train", BANK_IMAGES), ("val", QUERY_IMAGES)):
                self._splits[split] = find_images(
                    config.data.root,
                    split,
                    config.data.class_list,
                    limit,
                    max_megapixels=config.data.max_megapixels,
                )

    def after_epoch(self, model: Method, epoch: int) -> dict[str, Any]:
        """Return the metrics due after `epoch` (0-based): knn_top1 (%), those of `measure_negatives`, monitor_cost.

        monitor_cost is the time of the checks in percent of the training time since the last ones; it is also logged.
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
            logger.info(
                "checks after epoch %d took %.2f %% of the training time since the last ones",
                epoch + 1,
                values["monitor_cost"],
            )
            self._since = ended
        return values

    def measure_knn(self, model: nn.Module) -> float:
        """Return the accuracy (%) of kNN classification of held-out images by the training images."""
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
    """Return the paper's diagnostics of the negatives: hardness, false negatives and class geometry.

    The negatives are MoCo's queue or SimCLR's latest batch. The newest of them serve as queries, so that no image is
    read again; the cost is one product of (B, D) and (K, D).

    Returns:
        hardness (the curve) and hardest_share; in percent false_negatives (among the hardest), oracle_share (part of
        the denominator that the class oracle would remove) and, with mixing, mixes_pair_one, mixes_pair_both and
        mixes_query (mixes with parents of the query's class); and those of `measure_classes`. Empty if no class is
        known.

    """
    known = model.known_keys()
    if known is None:
        return {}
    chosen = torch.nonzero(known.labels[:BATCH] >= 0).flatten()
    if not len(chosen):
        return {}
    queries, classes = known.keys[chosen], known.labels[chosen]
    own = known.indices[chosen][:, None] == known.indices  # exclude keys of the query's own image
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
    """Return the class geometry of the newest keys, in the output space of the head; empty without two classes.

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
    """Return the percentages of mixes with parents of the query's class, for mixes drawn as in training."""
    if not settings.is_on or settings.is_synco:
        return {}
    generator = torch.Generator(device=cosines.device).manual_seed(0)  # leaves the generators of the training unchanged
    parents = draw_mixes(cosines, known.keys, settings, generator=generator, exclude=own).parents
    found: dict[str, float] = {}
    if settings.s:
        of_pairs = same_class_parents(parents[..., : settings.s].permute(1, 2, 0), classes, known.labels)
        found |= {"mixes_pair_one": 100 * of_pairs["one"], "mixes_pair_both": 100 * of_pairs["both"]}
    if settings.s_prime:
        of_singles = same_class_parents(parents[1, :, settings.s :, None], classes, known.labels)
        found["mixes_query"] = 100 * of_singles["one"]
    return found
