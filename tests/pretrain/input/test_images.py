"""Folder listing and decoding, including ImageNet's irregular files."""

import io
import pickle
import resource
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pretrain.input.images import (
    UNLABELLED,
    BrokenImageError,
    decode_image,
    list_images,
    list_unlabelled,
    read_image,
)
from pretrain.input.labelled_images import find_images
from tests.making.imagenet_like import CLASSES, declare, encode, make_photo, odd_files, write_images


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
        (b"\xff\xd8\xff\xe0 only a beginning", "cannot identify|Truncated"),
    ],
)
def test_unreadable_image_is_named(tmp_path: Path, data: bytes, reason: str) -> None:
    path = tmp_path / "a.JPEG"
    path.write_bytes(data)
    with pytest.raises(BrokenImageError, match=rf"a\.JPEG: cannot be read as an image \(.*({reason})"):
        read_image(path)
    with pytest.raises(BrokenImageError, match=r"gone\.JPEG"):
        read_image(tmp_path / "gone.JPEG")


def test_class_list_selects_and_renumbers(tmp_path: Path) -> None:
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


def test_images_in_folders_below_a_class_belong_to_it_as_in_torchvision(tmp_path: Path) -> None:
    from torchvision.datasets import ImageFolder

    root = write_images(tmp_path, 2) / "train"
    for name in ("day/a.JPEG", "day/deep/b.png", "night/c.JPEG", ".thumbs/d.JPEG", "day/._e.JPEG"):
        path = root / CLASSES[1] / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(make_photo(3)))
    (root / CLASSES[1] / "loop").symlink_to(root / CLASSES[1])
    (root / ".cache").mkdir()
    (root / ".cache" / "x.JPEG").write_bytes(encode(make_photo(3)))
    ours = list_images(root)
    (root / CLASSES[1] / "loop").unlink()
    visible = [(path, label) for path, label in ImageFolder(str(root), allow_empty=True).samples if "/." not in path]
    assert ours.classes == CLASSES
    # torchvision counts the hidden folder as its first class, so its labels are larger by one.
    assert sorted((str(ours.path(i)), int(ours.labels[i]) + 1) for i in range(len(ours))) == sorted(visible)
    assert ours.read(len(ours) - 3).shape == (75, 100, 3)


def test_images_beside_the_classes_are_refused(tmp_path: Path) -> None:
    root = write_images(tmp_path, 1) / "train"
    (root / "stray.JPEG").write_bytes(encode(make_photo(3)))
    with pytest.raises(ValueError, match=r"1 images, e\.g\. stray\.JPEG, lie beside the class folders"):
        list_images(root)


def test_splits_with_different_class_folders_are_refused(tmp_path: Path) -> None:
    root = write_images(tmp_path, 2)
    shutil.copytree(root / "train", root / "val")
    assert find_images(root, "val").classes == CLASSES
    (root / "val" / ".hidden").mkdir()
    (root / "val" / ".hidden" / "x.JPEG").write_bytes(encode(make_photo(3)))
    assert find_images(root, "val").labels.tolist() == find_images(root, "train").labels.tolist()
    (root / "val" / CLASSES[1]).rename(root / "val" / "goldfish")
    with pytest.raises(ValueError, match=rf"val has no {CLASSES[1]} .*train has no goldfish .*matched by name"):
        find_images(root, "val")
    shutil.rmtree(root / "val" / "goldfish")
    with pytest.raises(ValueError, match=rf"val has no {CLASSES[1]} \(1 of the 3 classes"):
        find_images(root, "val")
    (tmp_path / "common.txt").write_text(f"{CLASSES[0]}\n{CLASSES[2]}\n")
    for split in ("train", "val"):
        assert find_images(root, split, str(tmp_path / "common.txt")).classes == (CLASSES[0], CLASSES[2])


def test_sixteen_bit_images_keep_their_grey_levels(tmp_path: Path) -> None:
    ramp = (np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000).astype(np.uint16)
    expected = np.repeat((ramp >> 8).astype(np.uint8)[:, :, None], 3, axis=2)
    big_endian = b"P5 8 8 65535\n" + ramp.astype(">u2").tobytes()
    files = {kind: encode(Image.fromarray(ramp), kind) for kind in ("PNG", "TIFF")} | {"PPM": big_endian}
    for kind, data in files.items():
        assert np.array_equal(decode_image(data), expected), kind
    grey8 = encode(Image.fromarray(expected[:, :, 0]), "PNG")
    assert np.array_equal(decode_image(files["PNG"]), decode_image(grey8))


@pytest.mark.parametrize("kind", ["float32", "int32"])
def test_values_without_a_defined_white_are_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(encode(Image.fromarray(np.linspace(0, 9, 64).reshape(8, 8).astype(kind)), "TIFF"))
    with pytest.raises(BrokenImageError, match=r"a\.tif: .*no white is defined; convert it to 8 or 16 bits"):
        read_image(path)


@pytest.mark.parametrize("colour", ["RGB", "L", "CMYK"])
def test_declared_size_is_refused_before_it_is_allocated(tmp_path: Path, colour: str) -> None:
    path = tmp_path / "bomb.JPEG"
    path.write_bytes(declare(encode(make_photo(0, 16, 16).convert(colour)), 65500, 65500))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(BrokenImageError, match=r"declares 65500 x 65500 pixels, 4290 megapixels, over the limit"):
        read_image(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000, "KiB"


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_limit_of_the_declared_size_is_a_setting(tmp_path: Path, kind: str) -> None:
    data = encode(make_photo(0, 100, 200), kind)
    with pytest.raises(ValueError, match=r"max_megapixels=0\.01; if the image is valid, raise max_megapixels"):
        decode_image(data, 0.01)
    assert decode_image(data, 0.02).shape == (100, 200, 3)
    folder = tmp_path / "train" / "a"
    folder.mkdir(parents=True)
    (folder / "x.JPEG").write_bytes(data)
    with pytest.raises(BrokenImageError, match="over the limit"):
        list_images(tmp_path / "train", max_megapixels=0.01).read(0)


def test_unlabelled_images_are_listed_wherever_they_lie(tmp_path: Path) -> None:
    for name in ("b.JPEG", "trip/a.png", ".x/c.JPEG"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(encode(make_photo(3)))
    images = list_unlabelled(tmp_path)
    assert [images.name(i) for i in range(2)] == ["b.JPEG", "trip/a.png"]
    assert (images.classes, images.labels.tolist()) == ((), [UNLABELLED, UNLABELLED])
    assert images.read(1).shape == (75, 100, 3)
    with pytest.raises(ValueError, match="no images; expected files that end in"):
        (tmp_path / "none").mkdir()
        list_unlabelled(tmp_path / "none")
