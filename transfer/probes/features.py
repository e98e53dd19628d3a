"""Run a frozen backbone over labelled images and keep what it puts out: features for linear heads, kNN and analyses.

Shapes: n images, D features (2048 of a ResNet-50, 512 of a ResNet-18).
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from pretrain.input.images import ImageFolder
from pretrain.input.labelled_images import Batch, LabelledImages, find_images, normalise_images
from pretrain.input.sampler import Request
from pretrain.runtime.device import choose_automatic
from pretrain.runtime.settings import as_dict
from pretrain.runtime.stopping import end_workers_at_exit, ignore_stop_signals
from pretrain.runtime.storage import digest_file
from transfer.collectives import gather_rows, own_rank
from transfer.process_group import local_rank, world_size
from transfer.results.run_result import RESULT_NAME, RunResult, read_finished
from transfer.weights.backbone import Backbone, build_resnet, read_backbone
from transfer.weights.resnet_names import expected_shapes

PRECISIONS = ("auto", "fp32", "bf16")
FRESH = ("fc.bias", "fc.weight")
"""What a torchvision ResNet misses after a backbone is loaded, and must miss: the classifier that is trained anew."""


@dataclass(frozen=True, kw_only=True)
class FeatureConfig:
    """Where the images are and how features are taken; shared by linear classification and kNN."""

    protocol: str = ""
    """The recipe's name; settings that differ from it are recorded in the result."""
    backbone: str = ""
    """What the result calls the backbone; empty: the name of the weights' file."""
    seed: int = 0
    """Of the head, the order and the crops."""
    out: str = ""
    """Folder of the run: progress.json, metrics.json."""
    data: str = ""
    """ImageNet layout, ROOT/{train,val}/<class>/*; ROOT/imagenet/… is found as well."""
    class_list: str = ""
    """Text file with one class folder per line (ImageNet-100); empty: all classes."""
    train_images: int = 0
    """Take so many training images, classes evenly; 0: all."""
    val_images: int = 0
    """Take so many validation images, classes evenly; 0: all."""
    resize_px: int = 256
    """Shorter side before the centre crop, in pixels."""
    crop_px: int = 224
    """Side of what the backbone sees, in pixels."""
    workers: int = 8
    """DataLoader processes per rank; 0: the main process decodes."""
    feature_batch: int = 256
    """Images per forward pass when features are cached; changes nothing but speed."""
    device: str = "auto"
    """auto (cuda if there is one), cuda or cpu."""
    precision: str = "auto"
    """Of the frozen backbone: fp32, bf16 or auto (bf16 on a CUDA device that computes in it, else fp32)."""
    threads: int = 0
    """Intra-op CPU threads; 0: torch's choice."""


@dataclass(frozen=True)
class Features:
    """Features of a split, on the CPU."""

    values: Tensor  # (n, D) float32
    labels: Tensor  # (n,) int64
    classes: tuple[str, ...]


RUN_KEYS = (
    "protocol", "backbone", "seed", "out", "data", "class_list", "workers", "feature_batch", "device", "precision",
    "threads",
)  # fmt: skip
"""Settings that name a run or its machine, and so are no deviation from a protocol."""

UNRELATED = ("out", "workers", "feature_batch", "device", "precision", "threads", "chunk")
"""Settings that may change between the parts of one run."""


def find_finished(config: FeatureConfig, weights: Path) -> RunResult | None:
    """Return the result that lies in `config.out` already; None when there is none, ValueError if it is another's."""
    if not (Path(config.out) / RESULT_NAME).exists():
        return None
    wanted = {
        "backbone": config.backbone or weights.stem,
        "protocol": config.protocol,
        "seed": config.seed,
        "weights_sha256": digest_file(weights),
    }
    settings = {key: value for key, value in as_dict(config).items() if key not in (*UNRELATED, "data")}
    return read_finished(config.out, wanted, settings)


def list_deviations(protocols: Mapping[str, Mapping[str, object]], config: FeatureConfig) -> list[dict[str, object]]:
    """Return {"key", "expected", "got"} for every setting that differs from the protocol's table.

    Raises:
        ValueError: the protocol is unknown; lists the known ones.

    """
    if config.protocol not in protocols:
        raise ValueError(f"protocol: got {config.protocol!r}; expected one of {', '.join(protocols)}")
    return [
        {"key": key, "expected": expected, "got": getattr(config, key)}
        for key, expected in protocols[config.protocol].items()
        if getattr(config, key) != expected
    ]


def check_feature_config(config: FeatureConfig) -> list[str]:
    """Return what is wrong with the settings, a sentence each."""
    mistakes = []
    if not config.out:
        mistakes.append("out: no folder for the results; add out=FOLDER")
    if not config.data:
        mistakes.append("data: no images; add data=ROOT, where ROOT/train and ROOT/val hold one folder per class")
    if config.precision not in PRECISIONS:
        mistakes.append(f"precision: got {config.precision!r}; expected one of {', '.join(PRECISIONS)}")
    if not 0 < config.crop_px <= config.resize_px:
        mistakes.append(f"crop_px={config.crop_px} must lie in 1 … resize_px={config.resize_px}")
    return mistakes


def choose_device(name: str) -> torch.device:
    """Return the device that `name` stands for: this rank's GPU for cuda."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("device=cuda, but torch sees no CUDA device; use device=cpu or device=auto")
    return torch.device(name, local_rank()) if name == "cuda" else torch.device(name)


class FrozenBackbone:
    """A backbone that only looks: eval mode, no gradients, and a proof on demand that nothing moved."""

    def __init__(self, path: str | Path, device: torch.device, precision: str = "auto") -> None:
        """Load the backbone at `path`, strictly; exactly fc.weight and fc.bias of a whole ResNet stay fresh."""
        self.backbone: Backbone = read_backbone(path)
        fresh = sorted({*expected_shapes(self.backbone.depth), *FRESH} - self.backbone.state.keys())
        assert fresh == list(FRESH), f"{path}: read_backbone left out {fresh}"
        self.device = device
        self.bf16 = precision == "bf16" or (precision == "auto" and choose_automatic(device) == "bf16")
        model = build_resnet(self.backbone.depth)
        model.load_state_dict(self.backbone.state, strict=True)
        self.model: nn.Module = model.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)  # type: ignore[call-overload]
        self.width = 2048 if self.backbone.depth >= 50 else 512
        # In the model's own memory format: comparing across formats would cost more than a digits epoch.
        self._untouched = {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}
        self.prove_loaded()

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Return the pooled features (B, D), float32 on the device, of a uint8 batch (B, 3, H, W)."""
        return self.embed(normalise_images(images, self.device))

    @torch.no_grad()
    def embed(self, images: Tensor) -> Tensor:
        """Return the pooled features (B, D), float32, of normalised images on the device."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            features: Tensor = self.model(images)
        return features.float()

    def prove_loaded(self) -> None:
        """Raise RuntimeError when a tensor of the model differs from the checkpoint's."""
        for name, tensor in self.backbone.state.items():
            if not torch.equal(self._untouched[name].cpu(), tensor):
                raise RuntimeError(f"{name} differs from the checkpoint's after loading")

    def prove_frozen(self) -> int:
        """Compare every tensor, batch statistics included, with the checkpoint's; return how many are equal: all.

        Raises:
            RuntimeError: a tensor changed: a fault of this program, and the accuracy means nothing.

        """
        state = self.model.state_dict()
        moved = [name for name, tensor in self._untouched.items() if not torch.equal(state[name], tensor)]
        if moved or state.keys() != self.backbone.state.keys():
            raise RuntimeError(f"{len(moved)} backbone tensors changed while only the head was trained: {moved[:5]}")
        return len(state)


def build_batches(images: Dataset[Batch], order: Iterable[list[Request]], workers: int) -> "DataLoader[Batch]":
    """Return the batches of `images` in the given order, decoded by `workers` processes."""
    end_workers_at_exit()
    return DataLoader(
        images,
        batch_sampler=order,
        num_workers=workers,
        collate_fn=_take_batch,
        worker_init_fn=ignore_stop_signals,
        pin_memory=torch.cuda.is_available(),
    )


def find_split(config: FeatureConfig, split: str) -> ImageFolder:
    """Return the images of `split` that the settings ask for."""
    limit = config.train_images if split == "train" else config.val_images
    return find_images(config.data, split, config.class_list, limit)


def extract_features(
    model: FrozenBackbone, config: FeatureConfig, split: str, *, after_batch: Callable[[int], None] = lambda _done: None
) -> Features:
    """Return the features of the centre crops of a split, in the order of the files; each rank does its share.

    `after_batch(images done)` is called after every batch: for a heartbeat, and to raise YieldRequested.
    """
    source = find_split(config, split)
    images = LabelledImages(source, crop_px=config.crop_px, resize_px=config.resize_px)
    rank, ranks = own_rank(), world_size()
    share = -(-len(images) // ranks)
    mine = range(min(rank * share, len(images)), min((rank + 1) * share, len(images)))
    requests = [
        [(0, index) for index in mine[at : at + config.feature_batch]]
        for at in range(0, len(mine), config.feature_batch)
    ]
    values = torch.zeros(share, model.width)
    done = 0
    for batch in build_batches(images, requests, config.workers):
        count = len(batch["label"])
        values[done : done + count] = model(batch["image"]).cpu()
        done += count
        after_batch(min(done * ranks, len(images)))
    gathered = gather_rows(values.to(model.device)).cpu()
    return Features(gathered[: len(images)], torch.from_numpy(source.labels), source.classes)


def _take_batch(batch: Any) -> Any:
    return batch
