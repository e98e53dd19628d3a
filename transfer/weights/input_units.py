"""What weights expect of their input: channel order, mean, standard deviation, and where a bottleneck has its stride.

The four only change together; a file under torchvision's names can hold the first of them only.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class InputUnit:
    """One way to feed a ResNet, for pixels in 0…255."""

    order: str
    """RGB or BGR: of the channels, and of mean and std."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    stride_in_1x1: bool
    """The stride of a bottleneck sits in its first 1×1 convolution; else in the 3×3."""


INPUT_UNITS = {
    "torchvision": InputUnit(
        order="RGB", mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375), stride_in_1x1=False
    ),
    "msra": InputUnit(order="BGR", mean=(103.53, 116.28, 123.675), std=(1.0, 1.0, 1.0), stride_in_1x1=True),
    "bgr": InputUnit(order="BGR", mean=(103.53, 116.28, 123.675), std=(57.375, 57.12, 58.395), stride_in_1x1=False),
    "half": InputUnit(order="RGB", mean=(127.5, 127.5, 127.5), std=(127.5, 127.5, 127.5), stride_in_1x1=False),
}
"""torchvision: ImageNet's statistics (0.485, 0.456, 0.406; 0.229, 0.224, 0.225) × 255, torchvision/models/resnet.py.
msra: Detectron2's MSRA/R-50.pkl (MODEL_ZOO.md) and OpenMMLab's style "caffe". bgr: Detectron2's configs of X-101
(PIXEL_STD [57.375, 57.120, 58.395]). half: timm's mean and std of 0.5 (timm/data/constants.py)."""

TORCHVISION = "torchvision"


def find_unit(mean: tuple[float, ...], std: tuple[float, ...], order: str | None = None) -> str | None:
    """Return the name of the unit with this mean and std (and order, where it is known); None: none has them."""
    for name, unit in INPUT_UNITS.items():
        pairs = [*zip(unit.mean, mean, strict=False), *zip(unit.std, std, strict=False)]
        fits = len(mean) == len(std) == 3 and all(abs(ours - theirs) < 0.06 for ours, theirs in pairs)
        if fits and order in (None, unit.order):
            return name
    return None


def describe_unit(name: str) -> str:
    """Return the unit in words."""
    unit = INPUT_UNITS[name]
    place = "1×1" if unit.stride_in_1x1 else "3×3"
    return f"{name} ({unit.order}, mean {list(unit.mean)}, std {list(unit.std)}, stride in the {place} convolution)"
