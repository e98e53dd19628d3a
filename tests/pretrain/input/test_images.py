"""Folder listing and decoding, the odd files of ImageNet included."""

import io
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pretrain.input.images import BrokenImageError, decode_image, list_images, read_image
from tests.making.imagenet_like import CLASSES, encode, make_photo, odd_files, write_images


def test_list_equals_torchvision_image_folder(tmp_path: Path) -> None:
    from torchvision.datasets import ImageFolder

    root = write_images(tmp_path) / "train"
    (root / CLASSES[0] / "notes.txt").write_text("no image")
    ours, theirs = list_images(root), ImageFolder(str(root))
    assert ours.classes == tuple(theirs.classes)
    assert [(str(ours.path(i)), int(ours.labels[i])) for i in range(len(ours))] == theirs.samples


@pytest.mark.parametrize("kind", sorted(odd_files(make_photo(0))))
def test_decoding_equals_pil_convert_rgb(kind: str) -> None:
    data = odd_files(make_photo(0))[kind]
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(decode_image(data), expected)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (encode(make_photo(0))[:1500], "truncated"),
        (encode(make_photo(0), "PNG")[:1500], "truncated"),
        (b"", "cannot identify"),
        (b"no image at all", "cannot identify"),
        (b"\xff\xd8\xff\xe0 only a beginning", "cannot identify|broken|truncated"),
    ],
)
def test_unreadable_image_is_named(tmp_path: Path, data: bytes, reason: str) -> None:
    path = tmp_path / "a.JPEG"
    path.write_bytes(data)
    with pytest.raises(BrokenImageError, match=rf"a\.JPEG: cannot be read as an image \(.*({reason})"):
        read_image(path)
    with pytest.raises(BrokenImageError, match=r"gone\.JPEG"):
        read_image(tmp_path / "gone.JPEG")


def test_class_list_chooses_and_renumbers(tmp_path: Path) -> None:
    root = write_images(tmp_path, 2)
    chosen = tmp_path / "classes.txt"
    chosen.write_text(f"# two of three\n{CLASSES[2]} great white shark\n\n{CLASSES[1]}\n")
    images = list_images(root / "train", chosen)
    assert images.classes == CLASSES[1:]
    assert images.labels.tolist() == [0, 0, 1, 1]
    assert images.path(2).parent.name == CLASSES[2]


def test_missing_classes_and_folders_are_listed(tmp_path: Path) -> None:
    root = write_images(tmp_path, 1)
    chosen = tmp_path / "classes.txt"
    chosen.write_text("n999\n" + CLASSES[0])
    with pytest.raises(ValueError, match=r"1 of 2 classes have no folder .*n999"):
        list_images(root / "train", chosen)
    with pytest.raises(ValueError, match=r"imagenet100\.txt: \d+ of 100 classes have no folder"):
        list_images(root / "train", "imagenet100")
    with pytest.raises(ValueError, match="no such class list; expected imagenet100, or a text file"):
        list_images(root / "train", tmp_path / "none.txt")
    with pytest.raises(ValueError, match="no such folder; expected an ImageNet layout"):
        list_images(root / "test")
    (root / "train" / "empty").mkdir()
    with pytest.raises(ValueError, match="no images in empty"):
        list_images(root / "train")


def test_listing_survives_pickling_and_odd_names(tmp_path: Path) -> None:
    folder = tmp_path / "train" / "ü"
    folder.mkdir(parents=True)
    for name in ("é 1.JPEG", "b.jpeg"):
        (folder / name).write_bytes(encode(make_photo(1)))
    images = pickle.loads(pickle.dumps(list_images(tmp_path / "train")))
    assert [images.name(i) for i in range(2)] == ["b.jpeg", "é 1.JPEG"]
    assert images.read(1).shape == (75, 100, 3)
