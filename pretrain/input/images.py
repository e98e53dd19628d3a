"""Find the images of an ImageNet-like folder and decode them to RGB pixels.

Pixels are (H, W, 3) uint8 RGB, equal to PIL's `convert("RGB")`; EXIF orientation is ignored, as torchvision does.
"""

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image

Pixels = npt.NDArray[np.uint8]
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""The suffixes torchvision's ImageFolder takes, in any case."""
FAST_COLOURS = ("YCbCr", "RGB", "Gray")
"""JPEG colour spaces that libjpeg-turbo turns into PIL's very pixels; CMYK would be a level off."""
CLASS_LISTS = {"imagenet100": Path(__file__).parent / "imagenet100.txt"}
"""Class lists that come with the project, by name."""
SHOWN_CLASSES = 5
"""How many class names an error lists."""


class BrokenImageError(ValueError):
    """An image file cannot be decoded; the text names it."""


@dataclass(frozen=True)
class ImageFolder:
    """The images under ROOT/<class>/, sorted by class and name; `labels[i]` is the class of image i."""

    root: Path
    classes: tuple[str, ...]
    labels: npt.NDArray[np.int64]
    _names: bytes
    _ends: npt.NDArray[np.int64]

    def __len__(self) -> int:
        """Return how many images there are."""
        return len(self.labels)

    def name(self, index: int) -> str:
        """Return the file name of image `index` within its class folder."""
        begin = int(self._ends[index - 1]) if index else 0
        return os.fsdecode(self._names[begin : int(self._ends[index])])

    def path(self, index: int) -> Path:
        """Return the path of image `index`."""
        return Path(self.root, self.classes[self.labels[index]], self.name(index))

    def read(self, index: int) -> Pixels:
        """Decode image `index`; BrokenImageError names the file."""
        return read_image(self.path(index))


def list_images(root: str | Path, class_list: str | Path = "") -> ImageFolder:
    """List ROOT/<class>/*; the labels count the classes in alphabetical order.

    File names are kept in one block of bytes: a million Python strings would be copied into every worker as soon as
    their reference counts are touched.

    Args:
        root: folder of class folders, such as IMAGENET/train.
        class_list: imagenet100, or a text file with one class folder per line; empty: all of them.

    Raises:
        ValueError: no such folder, a listed class without folder, or a class without images.

    """
    root = Path(root)
    if not root.is_dir():
        raise ValueError(f"{root}: no such folder; expected an ImageNet layout, {root}/<class>/*.JPEG")
    classes = sorted(entry.name for entry in os.scandir(root) if entry.is_dir())
    if class_list:
        classes = choose_classes(classes, Path(class_list), root)
    names: list[bytes] = []
    labels: list[npt.NDArray[np.int64]] = []
    for label, folder in enumerate(classes):
        found = sorted(os.fsencode(entry.name) for entry in os.scandir(root / folder) if _is_image(entry.name))
        names.extend(found)
        labels.append(np.full(len(found), label, np.int64))
    empty = [name for name, part in zip(classes, labels, strict=True) if not len(part)]
    if not names or empty:
        raise ValueError(
            f"{root}: no images in {', '.join(empty[:SHOWN_CLASSES]) or 'any class folder'}; expected "
            f"{root}/<class>/*.JPEG with at least one image in each class"
        )
    ends = np.cumsum([len(name) for name in names], dtype=np.int64)
    return ImageFolder(root, tuple(classes), np.concatenate(labels), b"".join(names), ends)


def read_image(path: str | Path) -> Pixels:
    """Decode the file at `path`; BrokenImageError names it and says why."""
    try:
        with open(path, "rb", buffering=0) as stream:  # noqa: PTH123 (a third of the time of Path.read_bytes)
            return decode_image(stream.read())
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise BrokenImageError(
            f"{path}: cannot be read as an image ({error}); replace the file, or set data.skip_broken=true"
        ) from error


def decode_image(data: bytes) -> Pixels:
    """Return the (H, W, 3) RGB pixels of an encoded image, whatever its suffix said.

    libjpeg-turbo does JPEGs in colour and greyscale; CMYK, and other formats under a JPEG's name, go through PIL.
    """
    if data[:2] == b"\xff\xd8":
        try:
            if simplejpeg.decode_jpeg_header(data)[2] in FAST_COLOURS:
                pixels: Pixels = simplejpeg.decode_jpeg(data, "RGB")
                return pixels
        except ValueError:
            pass  # PIL takes it, or says what is wrong with it
    with Image.open(io.BytesIO(data)) as image:
        return np.array(image.convert("RGB"))


def choose_classes(present: Sequence[str], class_list: Path, root: Path) -> list[str]:
    """Return the listed classes, sorted; ValueError names those that are not `present` in `root`.

    `class_list` is a name in CLASS_LISTS or a file; lines that begin with # are comments.
    """
    class_list = CLASS_LISTS.get(str(class_list), class_list)
    if not class_list.is_file():
        raise ValueError(
            f"{class_list}: no such class list; expected {' or '.join(CLASS_LISTS)}, or a text file with one class "
            "folder per line"
        )
    words = [line.split()[0] for line in class_list.read_text().splitlines() if line.strip()]
    wanted = {word for word in words if not word.startswith("#")}
    missing = sorted(wanted.difference(present))
    if missing or not wanted:
        raise ValueError(
            f"{class_list}: {len(missing)} of {len(wanted)} classes have no folder in {root}: "
            f"{', '.join(missing[:SHOWN_CLASSES])}; correct the list or the data's root"
        )
    return sorted(wanted)


def _is_image(name: str) -> bool:
    return name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")
