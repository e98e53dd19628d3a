"""An ImageNet-like folder of small images, including the irregular files that ImageNet contains."""

import io
import struct
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("n01440764", "n01443537", "n01484850")


def make_photo(seed: int, height: int = 75, width: int = 100) -> Image.Image:
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (8, 10, 3), dtype=np.uint8)).resize((width, height), 3)
    colours = np.asarray(coarse).astype(float)
    pixels = 0.65 * colours.mean(2, keepdims=True) + 0.35 * colours  # photos have unsaturated colours
    return Image.fromarray(np.clip(pixels + rng.normal(0, 5, (height, width, 3)), 0, 255).astype(np.uint8))


def encode(photo: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    stream = io.BytesIO()
    photo.save(stream, kind, **options)
    return stream.getvalue()


def odd_files(photo: Image.Image) -> dict[str, bytes]:
    return {
        "cmyk": encode(photo.convert("CMYK")),
        "grey": encode(photo.convert("L")),
        "png": encode(photo, "PNG"),
        "png_palette": encode(photo.convert("P"), "PNG"),
        "progressive": encode(photo, progressive=True),
        "plain": encode(photo),
    }


def write_images(root: Path, per_class: int = 8) -> Path:
    """Write ROOT/train/<class>/<n>.JPEG of several sizes; return ROOT."""
    for label, name in enumerate(CLASSES):
        folder = root / "train" / name
        folder.mkdir(parents=True)
        for number in range(per_class):
            photo = make_photo(100 * label + number, 60 + 7 * number, 80 + 5 * label)
            (folder / f"{name}_{number}.JPEG").write_bytes(encode(photo))
    return root


def declare(data: bytes, height: int, width: int) -> bytes:
    """Return the JPEG with `height` and `width` in its header."""
    place = data.index(b"\xff\xc0") + 5
    return data[:place] + struct.pack(">HH", height, width) + data[place + 4 :]
