"""Run a frozen backbone over labelled images and keep what it puts out: features for linear heads, kNN and analyses.

Shapes: n images, D features (2048 of a ResNet-50, 512 of a ResNet-18).
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from pretrain.input.images import ImageFolder
from pretrain.input.labelled_images import Batch, LabelledImages, find_images, normalise_images, take_listed
from pretrain.input.sampler import Request
from pretrain.runtime import distributed
from pretrain.runtime.device import choose_automatic
from pretrain.runtime.settings import as_dict
from pretrain.runtime.stopping import end_workers_at_exit, ignore_stop_signals
from pretrain.runtime.storage import digest_file, sweep_temporary_files
from transfer.probes.feature_table import FeatureTable, finish_table, open_rows, read_table
from transfer.results.run_result import RESULT_NAME, RunResult, read_finished, read_result
from transfer.weights.backbone import Backbone, build_resnet, fit_input, place_strides, read_backbone
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
    train_list: str = ""
    """Text file that names the training images to take, one file name per line; empty: all, or train_images."""
    val_images: int = 0
    """Take so many validation images, classes evenly; 0: all."""
    resize_px: int = 256
    """Shorter side before the centre crop, in pixels."""
    crop_px: int = 224
    """Side of what the backbone sees, in pixels."""
    max_megapixels: float = 179.0
    """Refuse an image file that declares more, before it is decoded: a megapixel takes 3 MB."""
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
    """Features of a split, on disk."""

    values: FeatureTable  # (n, D) float32
    labels: Tensor  # (n,) int64
    classes: tuple[str, ...]
    source: ImageFolder


FEATURE_KEYS = ("class_list", "train_list", "train_images", "val_images", "resize_px", "crop_px")
"""Settings that features depend on, beside the data and the weights."""
RUN_KEYS = (
    "protocol", "backbone", "seed", "out", "data", "class_list", "workers", "feature_batch", "device", "precision",
    "threads", "max_megapixels",
)  # fmt: skip
"""Settings that name a run or its machine, and so are no deviation from a protocol."""

UNRELATED = ("out", "workers", "feature_batch", "device", "precision", "threads", "chunk", "max_megapixels")
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
    stored, defaults = read_result(config.out).details.get("config", {}), as_dict(type(config)())
    settings = {
        key: value
        for key, value in as_dict(config).items()
        # A result from before a setting existed was made with its default.
        if key not in (*UNRELATED, "data") and (key in stored or value != defaults[key])
    }
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
    return torch.device(name, distributed.local_rank()) if name == "cuda" else torch.device(name)


class FrozenBackbone:
    """A backbone that only looks: eval mode, no gradients, and a proof on demand that nothing moved."""

    def __init__(self, path: str | Path, device: torch.device, precision: str = "auto") -> None:
        """Load the backbone at `path`, strictly; exactly fc.weight and fc.bias of a whole ResNet stay fresh."""
        backbone = read_backbone(path)
        self.backbone: Backbone = dataclasses.replace(backbone, state=fit_input(backbone))
        self.digest = digest_file(path)
        fresh = sorted({*expected_shapes(self.backbone.depth), *FRESH} - self.backbone.state.keys())
        assert fresh == list(FRESH), f"{path}: read_backbone left out {fresh}"
        self.device = device
        self.bf16 = precision == "bf16" or (precision == "auto" and choose_automatic(device) == "bf16")
        model = build_resnet(self.backbone.depth)
        model.load_state_dict(self.backbone.state, strict=True)
        place_strides(model, self.backbone.pixel_format)
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
    listed = config.train_list if split == "train" else ""
    limit = config.val_images if split != "train" else 0 if listed else config.train_images
    images = find_images(config.data, split, config.class_list, limit, max_megapixels=config.max_megapixels)
    return take_listed(images, listed) if listed else images


def extract_features(
    model: FrozenBackbone,
    config: FeatureConfig,
    split: str,
    folder: Path,
    *,
    after_batch: Callable[[int], None] = lambda _done: None,
) -> Features:
    """Write the features of the centre crops of a split below `folder`, in the order of the files; each rank its share.

    Features that are there already, of the same weights, data and settings, are used again. `after_batch(images done)`
    is called equally often on every rank: for a heartbeat, and to raise YieldRequested on all ranks.
    """
    source, place = find_split(config, split), folder / split
    of = _describe_features(model, config, source)
    table = distributed.on_main(lambda: read_table(place, of))
    if table is None:
        distributed.on_main(lambda: sweep_temporary_files(place))
        rank, ranks = distributed.rank(), distributed.world_size()
        shares = share_rows(len(source), ranks)
        with open_rows(place, rank, ranks) as stream:
            for values in _embed(model, config, source, shares, after_batch):
                stream.write(values.numpy().data)
        distributed.barrier()
        rows = [len(share) for share in shares]
        distributed.on_main(lambda: finish_table(place, of, model.width, rows))
        table = distributed.on_main(lambda: read_table(place, of))
        assert table is not None, f"{place}: written just now"
    return Features(table, torch.from_numpy(source.labels), source.classes, source)


def share_rows(rows: int, ranks: int, unit: int = 1) -> list[range]:
    """Return each rank's rows: neighbouring ones, as evenly as whole units allow, the last ranks fewer or none."""
    share = -(-rows // (ranks * unit)) * unit
    return [range(min(rank * share, rows), min((rank + 1) * share, rows)) for rank in range(ranks)]


def _embed(
    model: FrozenBackbone,
    config: FeatureConfig,
    source: ImageFolder,
    shares: list[range],
    after_batch: Callable[[int], None],
) -> Iterator[Tensor]:
    """Yield the features (b, D) of this rank's images, on the CPU."""
    mine, size, ranks = shares[distributed.rank()], config.feature_batch, len(shares)
    requests = [[(0, index) for index in mine[at : at + size]] for at in range(0, len(mine), size)]
    images = LabelledImages(source, crop_px=config.crop_px, resize_px=config.resize_px)
    batches = iter(build_batches(images, requests, config.workers))
    done = 0
    for _ in range(0, len(shares[0]), size):  # the first rank has the most batches; all go round equally often
        if (batch := next(batches, None)) is not None:
            yield model(batch["image"]).cpu()
            done += len(batch["label"])
        after_batch(min(done * ranks, len(source)))


def _describe_features(model: FrozenBackbone, config: FeatureConfig, source: ImageFolder) -> dict[str, Any]:
    """Return what the features depend on: other weights, images or settings make others."""
    kept = {key: getattr(config, key) for key in FEATURE_KEYS}
    return {
        **kept,
        "weights_sha256": model.digest,
        "bf16": model.bf16,
        "data": str(source.root.absolute()),
        "images_sha256": source.digest(),
    }


def _take_batch(batch: Any) -> Any:
    return batch
