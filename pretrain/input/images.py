"""List the images of an ImageNet-like folder, or of a folder without classes."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pretrain.input.decoding import MAX_MEGAPIXELS, BrokenImageError, Pixels, decode_image, read_image

__all__ = [
    "BrokenImageError",
    "ImageFolder",
    "Pixels",
    "choose_classes",
    "decode_image",
    "is_flat",
    "list_classes",
    "list_either",
    "list_images",
    "read_image",
]
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Suffixes that torchvision's ImageFolder accepts, case-insensitive."""
CLASS_LISTS = {"imagenet100": Path(__file__).parent / "imagenet100.txt"}
"""Class lists that come with the project, by name."""
UNLABELLED = -1
"""Label of an image of unknown class."""
SHOWN_CLASSES = 5
"""Maximum number of class names in an error message."""


@dataclass(frozen=True)
class ImageFolder:
    """The images under ROOT/<class>/, sorted by class and path; `labels[i]` is the class of image i.

    Without class folders `classes` is empty, every label is UNLABELLED, and images may lie anywhere under ROOT.
    """

    root: Path
    classes: tuple[str, ...]
    labels: npt.NDArray[np.int64]
    _names: bytes
    _ends: npt.NDArray[np.int64]
    max_megapixels: float = MAX_MEGAPIXELS

    def __len__(self) -> int:
        """Return how many images there are."""
        return len(self.labels)

    def name(self, index: int) -> str:
        """Return the path of image `index`, relative to its class folder."""
        begin = int(self._ends[index - 1]) if index else 0
        return os.fsdecode(self._names[begin : int(self._ends[index])])

    def path(self, index: int) -> Path:
        """Return the path of image `index`."""
        folder = Path(self.root, self.classes[self.labels[index]]) if self.classes else self.root
        return folder / self.name(index)

    def read(self, index: int) -> Pixels:
        """Decode image `index`; BrokenImageError names the file."""
        return read_image(self.path(index), self.max_megapixels)

    def select(self, chosen: npt.NDArray[np.int64]) -> "ImageFolder":
        """Return the images with the given indices, in that order."""
        names = [os.fsencode(self.name(int(index))) for index in chosen]
        ends = np.cumsum([len(name) for name in names], dtype=np.int64)
        return replace(self, labels=self.labels[chosen], _names=b"".join(names), _ends=ends)

    def digest(self) -> str:
        """Return the SHA-256 of classes, labels and names, which identifies the list of images."""
        digest = hashlib.sha256(os.fsencode("\n".join(self.classes)))
        digest.update(self.labels.tobytes())
        for index in range(len(self)):
            digest.update(os.fsencode(self.name(index)) + b"\0")
        return digest.hexdigest()


def list_images(
    root: str | Path, class_list: str | Path = "", *, max_megapixels: float = MAX_MEGAPIXELS
) -> ImageFolder:
    """List ROOT/<class>/**; labels number the classes in alphabetical order.

    Like torchvision's ImageFolder, except that hidden folders are ignored. File names are stored in one block of bytes,
    because a million Python strings would be copied into every worker once their reference counts change.

    Args:
        root: folder of class folders, such as IMAGENET/train.
        class_list: imagenet100, or a text file with one class folder per line; empty: all classes.
        max_megapixels: limit above which an image is refused before decoding.

    Raises:
        ValueError: missing folder, listed class without a folder, class without images, or images outside the class
            folders.

    """
    root = Path(root)
    classes = list_classes(root)
    if class_list:
        classes = choose_classes(classes, Path(class_list), root)
    found = [_find_files(root / name) for name in classes]
    empty = [name for name, names in zip(classes, found, strict=True) if not names]
    if not found or empty:
        raise ValueError(
            f"{root}: no images in {', '.join(empty[:SHOWN_CLASSES]) or 'any class folder'}; expected "
            f"{root}/<class>/*.JPEG with at least one image in each class"
        )
    if beside := sorted(entry.name for entry in os.scandir(root) if _is_image(entry.name) and entry.is_file()):
        raise ValueError(
            f"{root}: {len(beside)} images, e.g. {beside[0]}, lie beside the class folders and belong to no class; "
            f"move them into {root}/<class>/, or out of {root}"
        )
    labels = np.repeat(np.arange(len(found), dtype=np.int64), [len(names) for names in found])
    return _make_folder(root, classes, labels, [name for names in found for name in names], max_megapixels)


def list_unlabelled(root: str | Path, *, max_megapixels: float = MAX_MEGAPIXELS) -> ImageFolder:
    """List all images anywhere under ROOT, without classes.

    Raises:
        ValueError: the folder is missing or contains no images.

    """
    root = Path(root)
    _refuse_missing(root)
    names = _find_files(root)
    if not names:
        raise ValueError(f"{root}: no images; expected files that end in {', '.join(IMAGE_SUFFIXES)}")
    return _make_folder(root, [], np.full(len(names), UNLABELLED, np.int64), names, max_megapixels)


def list_either(
    root: str | Path, class_list: str | Path = "", *, max_megapixels: float = MAX_MEGAPIXELS
) -> ImageFolder:
    """List ROOT/<class>/**, or all images under ROOT if it is flat (`is_flat`) and no class list is given.

    Raises:
        ValueError: ROOT has neither layout.

    """
    root = Path(root)
    if not class_list and is_flat(root):
        return list_unlabelled(root, max_megapixels=max_megapixels)
    return list_images(root, class_list, max_megapixels=max_megapixels)


def is_flat(root: Path) -> bool:
    """Return whether ROOT directly contains images and has no class folders."""
    return root.is_dir() and not list_classes(root) and any(_is_image(path.name) for path in list(root.iterdir()))


def list_classes(root: Path) -> list[str]:
    """Return the names of the class folders in ROOT, sorted, without hidden folders."""
    _refuse_missing(root)
    return sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith("."))


def check_same_classes(first: Path, second: Path) -> None:
    """Raise ValueError unless both folders have the same class folders, as labels would otherwise differ."""
    here, there = list_classes(first), list_classes(second)
    lacking = [
        f"{folder} has no {', '.join(lost[:SHOWN_CLASSES])}{' …' if len(lost) > SHOWN_CLASSES else ''} "
        f"({len(lost)} of the {len(others)} classes of {other})"
        for folder, other, own, others in ((second, first, there, here), (first, second, here, there))
        if (lost := sorted(set(others) - set(own)))
    ]
    if lacking:
        raise ValueError(
            f"the class folders differ: {'; '.join(lacking)}. Classes are matched by name: rename or add the folders, "
            "or name the common classes with class_list=FILE (one per line)"
        )


def _make_folder(
    root: Path, classes: list[str], labels: npt.NDArray[np.int64], names: list[bytes], max_megapixels: float
) -> ImageFolder:
    ends = np.cumsum([len(name) for name in names], dtype=np.int64)
    return ImageFolder(root, tuple(classes), labels, b"".join(names), ends, max_megapixels)


def _refuse_missing(root: Path) -> None:
    if not root.is_dir():
        raise ValueError(f"{root}: no such folder; expected an ImageNet layout, {root}/<class>/*.JPEG")


def _find_files(folder: Path) -> list[bytes]:
    """Return the paths of the images below `folder`, relative to it, sorted, without hidden files and folders."""
    found: list[bytes] = []
    seen: set[tuple[int, int]] = set()

    def look(path: Path, prefix: str) -> None:
        status = path.stat()
        if (status.st_dev, status.st_ino) in seen:
            return  # already visited: a link to a parent folder
        seen.add((status.st_dev, status.st_ino))
        for entry in os.scandir(path):
            if entry.name.startswith("."):
                continue
            # Testing the name first saves a system call per file: few folders have an image suffix.
            if _is_image(entry.name) and not entry.is_dir(follow_symlinks=False):
                found.append(os.fsencode(prefix + entry.name))
            elif entry.is_dir():
                look(Path(entry.path), f"{prefix}{entry.name}/")

    look(folder, "")
    return sorted(found)


def choose_classes(present: Sequence[str], class_list: Path, root: Path) -> list[str]:
    """Return the listed classes, sorted; ValueError lists those that are not `present` in `root`.

    `class_list` is a name in CLASS_LISTS or a file; lines that start with # are comments.
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
            f"{', '.join(missing[:SHOWN_CLASSES])}; correct the list or the root folder"
        )
    return sorted(wanted)


def _is_image(name: str) -> bool:
    return name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")
