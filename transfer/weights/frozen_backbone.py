"""Run a frozen backbone over batches of images, on one device.

Shapes: B images of a batch, D features (2048 of a ResNet-50, 512 of a ResNet-18).
"""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from pretrain.input.labelled_images import Batch, normalise_images
from pretrain.input.sampler import Request
from pretrain.runtime import distributed
from pretrain.runtime.device import choose_automatic
from pretrain.runtime.stopping import end_workers_at_exit, ignore_stop_signals
from pretrain.runtime.storage import digest_file
from transfer.weights.backbone import Backbone, build_resnet, fit_input, place_strides, read_backbone
from transfer.weights.resnet_names import expected_shapes

CLASSIFIER = ("fc.bias", "fc.weight")
"""Parameters of a torchvision ResNet that no backbone file contains: the ImageNet classifier."""


def choose_device(name: str) -> torch.device:
    """Return the device for `name` (auto, cuda or cpu); cuda is the GPU of this rank.

    Raises:
        ValueError: cuda was requested, but torch finds no CUDA device.

    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("device=cuda, but torch finds no CUDA device; use device=cpu or device=auto")
    return torch.device(name, distributed.local_rank()) if name == "cuda" else torch.device(name)


class FrozenBackbone:
    """A backbone in eval mode without gradients; `prove_frozen` verifies that no parameter or buffer changed."""

    def __init__(self, path: str | Path, device: torch.device, precision: str = "auto") -> None:
        """Load the backbone file at `path` strictly; `precision` is fp32, bf16 or auto.

        Raises:
            ValueError: as `read_backbone` for a file that holds no usable backbone.
            RuntimeError: a loaded tensor differs from the file's.

        """
        backbone = read_backbone(path)
        self.backbone: Backbone = dataclasses.replace(backbone, state=fit_input(backbone))
        self.digest = digest_file(path)
        absent = sorted({*expected_shapes(self.backbone.depth), *CLASSIFIER} - self.backbone.state.keys())
        assert absent == list(CLASSIFIER), f"{path}: read_backbone omitted {absent}"
        self.device = device
        self.bf16 = precision == "bf16" or (precision == "auto" and choose_automatic(device) == "bf16")
        model = build_resnet(self.backbone.depth)
        model.load_state_dict(self.backbone.state, strict=True)
        place_strides(model, self.backbone.pixel_format)
        self.model: nn.Module = model.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)  # type: ignore[call-overload]
        self.width = 2048 if self.backbone.depth >= 50 else 512
        # In the model's own memory format: comparing across formats would take longer than a digits epoch.
        self._untouched = {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}
        self.prove_loaded()

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Return the pooled features (B, D), float32 on the device, of a uint8 batch (B, 3, H, W)."""
        return self.embed(normalise_images(images, self.device))

    @torch.no_grad()
    def embed(self, images: Tensor) -> Tensor:
        """Return the pooled features (B, D), float32, of normalised images (B, 3, H, W) on the device."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            features: Tensor = self.model(images)
        return features.float()

    def prove_loaded(self) -> None:
        """Raise RuntimeError if a tensor of the model differs from the file's."""
        for name, tensor in self.backbone.state.items():
            if not torch.equal(self._untouched[name].cpu(), tensor):
                raise RuntimeError(f"{name} differs from the checkpoint's after loading")

    def prove_frozen(self) -> int:
        """Compare every parameter and buffer with its value after loading; return their number.

        Raises:
            RuntimeError: a tensor changed: a bug of this program, which invalidates the accuracy.

        """
        state = self.model.state_dict()
        changed = [name for name, tensor in self._untouched.items() if not torch.equal(state[name], tensor)]
        if changed or state.keys() != self.backbone.state.keys():
            raise RuntimeError(
                f"{len(changed)} backbone tensors changed while only the head was trained: {changed[:5]}"
            )
        return len(state)


def build_batches(images: Dataset[Batch], order: Iterable[list[Request]], workers: int) -> "DataLoader[Batch]":
    """Return a DataLoader that yields the batches of `images` in the given order, decoded by `workers` processes."""
    end_workers_at_exit()
    return DataLoader(
        images,
        batch_sampler=order,
        num_workers=workers,
        collate_fn=_take_batch,
        worker_init_fn=ignore_stop_signals,
        pin_memory=torch.cuda.is_available(),
    )


def _take_batch(batch: Any) -> Any:
    return batch
