"""Pixel formats that weights expect: channel order, mean, standard deviation and stride placement in bottlenecks.

The four values only change together.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class PixelFormat:
    """Input normalisation and stride placement of a ResNet, for pixels in 0…255."""

    order: str
    """RGB or BGR: order of the channels, and of mean and std."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    stride_in_1x1: bool
    """Whether the stride of a bottleneck is in its first 1×1 convolution; otherwise it is in the 3×3."""


PIXEL_FORMATS = {
    "torchvision": PixelFormat(
        order="RGB", mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375), stride_in_1x1=False
    ),
    "msra": PixelFormat(order="BGR", mean=(103.53, 116.28, 123.675), std=(1.0, 1.0, 1.0), stride_in_1x1=True),
    "bgr": PixelFormat(order="BGR", mean=(103.53, 116.28, 123.675), std=(57.375, 57.12, 58.395), stride_in_1x1=False),
    "half": PixelFormat(order="RGB", mean=(127.5, 127.5, 127.5), std=(127.5, 127.5, 127.5), stride_in_1x1=False),
}
"""torchvision: ImageNet's statistics (0.485, 0.456, 0.406; 0.229, 0.224, 0.225) × 255, torchvision/models/resnet.py.
msra: Detectron2's MSRA/R-50.pkl (MODEL_ZOO.md) and OpenMMLab's style "caffe". bgr: Detectron2's configs of X-101
(PIXEL_STD [57.375, 57.120, 58.395]). half: timm's mean and std of 0.5 (timm/data/constants.py)."""

TORCHVISION = "torchvision"


def match_pixel_format(mean: tuple[float, ...], std: tuple[float, ...], order: str | None = None) -> str | None:
    """Return the name of the pixel format with this mean and std (and order, if given); None if there is none."""
    for name, pixels in PIXEL_FORMATS.items():
        pairs = [*zip(pixels.mean, mean, strict=False), *zip(pixels.std, std, strict=False)]
        fits = len(mean) == len(std) == 3 and all(abs(ours - theirs) < 0.06 for ours, theirs in pairs)
        if fits and order in (None, pixels.order):
            return name
    return None


def describe_pixel_format(name: str) -> str:
    """Return the pixel format in words."""
    pixels = PIXEL_FORMATS[name]
    place = "1×1" if pixels.stride_in_1x1 else "3×3"
    return (
        f"{name} ({pixels.order}, mean {list(pixels.mean)}, std {list(pixels.std)}, stride in the {place} convolution)"
    )
