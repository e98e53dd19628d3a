"""Inputs of probes: folders of digit images by class, and the weights of an untrained ResNet-18."""

from pathlib import Path

import numpy as np
import torch
import torchvision

from tools.digits.layouts import write_classes
from tools.digits.scenes import load_pools


def write_digit_classes(root: Path, *, train: int, val: int) -> Path:
    """Write so many images of 48 px under ROOT/train and ROOT/val, one folder per digit; return ROOT."""
    pools = load_pools(0)
    for split, pool, count in (("train", pools["train"], train), ("val", pools["test"], val)):
        write_classes(root / split, pool, count, 48, lambda name, index: np.random.default_rng([len(name), index]))
    return root


def save_resnet18(folder: Path) -> Path:
    """Write a torchvision ResNet-18 initialised with seed 0; return the file."""
    torch.manual_seed(0)
    path = folder / "r18.pth"
    torch.save(torchvision.models.resnet18().state_dict(), path)
    return path
