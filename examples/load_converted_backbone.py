"""Load a converted backbone into torchvision: `python examples/load_converted_backbone.py runs/mochi/backbone.pkl`."""

import sys
from pathlib import Path

import torch

from transfer.weights.backbone import load_backbone, read_backbone
from transfer.weights.convert import to_detectron2


def main(path: Path) -> torch.nn.Module:
    """Return the ResNet (without fc) that the file holds, after saying what it is."""
    found = read_backbone(path)  # its tensors by torchvision's names, depth, family, epoch
    tensors = to_detectron2(found.state, found.depth, layout="c4")  # the names of a Detectron2 C4 detector
    print(f"{path}: ResNet-{found.depth} of family {found.family}, {len(tensors)} tensors for a C4 detector")
    return load_backbone(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
