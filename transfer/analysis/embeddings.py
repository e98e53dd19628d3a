"""Embed images with an encoder: two augmented views through the head, centre crops through the backbone.

Shapes: n images, D features of the backbone, d of the projection head, K keys of the queue.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from pretrain.encoder import HEADS, build_head
from pretrain.input.images import ImageFolder
from pretrain.input.labelled_images import LabelledImages
from pretrain.input.view_parameters import find_recipe
from pretrain.input.views import TwoViews, finish_on_device
from pretrain.runtime.storage import digest_file
from transfer.analysis.config import AnalysisConfig
from transfer.weights.files.containers import read_tree
from transfer.weights.frozen_backbone import FrozenBackbone, build_batches
from transfer.weights.manifest import manifest_path, read_manifest

PREFIXES = ("module.", "")
UNKNOWN = -1
"""Class of a queue key without a stored label."""


@dataclass(frozen=True)
class Encoder:
    """A frozen backbone with the head and queue of its pretraining checkpoint, if available."""

    name: str
    path: Path
    backbone: FrozenBackbone
    head: nn.Module | None
    queue: Tensor | None  # (K, d), unit length
    queue_labels: Tensor | None  # (K,), UNKNOWN where no label is stored

    def describe(self) -> dict[str, Any]:
        """Return the encoder's provenance as JSON values."""
        found = self.backbone.backbone
        origin = read_manifest(self.path).source if manifest_path(self.path).is_file() else {}
        return {
            "weights": self.path.name,
            "sha256": digest_file(self.path),
            "family": found.family,
            "depth": found.depth,
            "epoch": found.epoch if found.epoch is not None else origin.get("epoch"),
            "head": self.head is not None,
            "queue": 0 if self.queue is None else len(self.queue),
        }


@dataclass(frozen=True)
class Embeddings:
    """Embeddings of the images by one encoder; rows have unit length and are on the CPU."""

    queries: Tensor  # (n, d or D), view 1
    keys: Tensor  # (n, d or D), view 2
    features: Tensor  # (n, D), centre crops, backbone
    labels: Tensor  # (n,)
    classes: tuple[str, ...]


def load_encoder(name: str, path: Path, device: torch.device, precision: str) -> Encoder:
    """Return the encoder in any file that the converter reads, with its head and queue if available.

    A converted file has no head: head and queue come from the checkpoint named in its manifest, if that file still
    exists with the same SHA-256.
    """
    backbone = FrozenBackbone(path, device, precision)
    state = _read_state(_find_origin(path))
    head = read_head(state)
    queue = _find(state, "queue")
    labels = _find(state, "queue_labels")
    return Encoder(
        name=name,
        path=path,
        backbone=backbone,
        head=None if head is None else head.to(device).eval().requires_grad_(False),
        queue=None if queue is None or head is None else normalize(queue.T.float(), dim=1),
        queue_labels=labels,
    )


def read_head(state: Mapping[str, Any]) -> nn.Module | None:
    """Return the query encoder's projection head, its kind inferred from names and shapes; None if there is none."""
    found = [
        {key.removeprefix(begin): value for key, value in state.items() if key.startswith(begin)}
        for begin in (f"{prefix}encoder_q.fc." for prefix in PREFIXES)
    ]
    head = next(filter(None, found), {})
    matrices = [value for value in head.values() if isinstance(value, Tensor) and value.ndim == 2]
    if not matrices:
        return None
    dim, width = matrices[-1].shape
    for kind in HEADS:
        built = build_head(kind, nn.Linear(width, dim))
        expected = {key: value.shape for key, value in built.state_dict().items()}
        if expected == {key: getattr(value, "shape", None) for key, value in head.items()}:
            built.load_state_dict(head)
            return built
    return None


@torch.no_grad()
def embed_images(
    encoder: Encoder,
    source: ImageFolder,
    config: AnalysisConfig,
    *,
    use_head: bool,
    after_batch: Callable[[int], None] = lambda _images: None,
) -> Embeddings:
    """Return queries and keys of two augmented views, and the centre crops' features; batch norm is in eval mode.

    `after_batch(images)` is called after each forward pass with its number of images.
    """
    order = [
        [(0, index) for index in range(begin, min(begin + config.batch, len(source)))]
        for begin in range(0, len(source), config.batch)
    ]
    views = TwoViews(
        source,
        find_recipe(config.augmentation),
        seed=config.seed,
        crop_px=config.crop_px,
        min_scale=config.min_scale,
        crops_only=False,
        skip_broken=False,
    )
    model, head = encoder.backbone, encoder.head if use_head and encoder.head is not None else nn.Identity()
    found: dict[str, list[Tensor]] = {"query": [], "key": [], "features": []}
    for batch in build_batches(views, order, config.workers):
        for name, images in zip(("query", "key"), finish_on_device(batch, model.device), strict=True):
            found[name].append(normalize(head(model.embed(images)), dim=1).cpu())
            after_batch(len(images))
    crops = LabelledImages(source, crop_px=config.crop_px, resize_px=config.resize_px)
    for batch in build_batches(crops, order, config.workers):
        found["features"].append(normalize(model(batch["image"]), dim=1).cpu())
        after_batch(len(batch["image"]))
    queries, keys, features = (torch.cat(found[name]) for name in ("query", "key", "features"))
    return Embeddings(queries, keys, features, torch.from_numpy(source.labels), source.classes)


def _find_origin(path: Path) -> Path:
    if not manifest_path(path).is_file():
        return path
    source = read_manifest(path).source
    for origin in (Path(source["path"]), path.parent / source["path"]):
        if origin.is_file() and digest_file(origin) == source["sha256"]:
            return origin
    return path


def _read_state(path: Path) -> Mapping[str, Any]:
    state = read_tree(path).get("state_dict")
    return state if isinstance(state, Mapping) else {}


def _find(state: Mapping[str, Any], key: str) -> Tensor | None:
    found = next((state[prefix + key] for prefix in PREFIXES if prefix + key in state), None)
    return found if isinstance(found, Tensor) else None
