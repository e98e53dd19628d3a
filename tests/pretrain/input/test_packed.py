"""The packed cache has the pixels of the files, is resumable and detects damage."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pretrain.input.images import BrokenImageError, list_images
from pretrain.input.packed import Packing, open_cache, pack_images, shrink
from tests.making.imagenet_like import CLASSES, write_images
from tools import pack_images as command

PACKING = Packing(images_per_shard=10)


def pack(root: Path, out: Path, packing: Packing = PACKING) -> list[int]:
    return list(pack_images(list_images(root / "train"), out, packing))


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = write_images(tmp_path_factory.mktemp("data"))
    out = root / "cache"
    assert pack(root, out) == [10, 20, 24]
    return root, out


def copy(folder: Path, target: Path) -> Path:
    target.mkdir()
    for path in folder.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


def test_cache_holds_the_decoded_files(packed: tuple[Path, Path]) -> None:
    root, out = packed
    images, cache = list_images(root / "train"), pickle.loads(pickle.dumps(open_cache(out, every_image=True)))
    assert (len(cache), cache.classes) == (24, CLASSES)
    np.testing.assert_array_equal(cache.labels, images.labels)
    for index in range(24):
        np.testing.assert_array_equal(cache.read(index), images.read(index))


def test_class_list_selects_from_the_cache(packed: tuple[Path, Path], tmp_path: Path) -> None:
    root, out = packed
    (tmp_path / "list.txt").write_text(CLASSES[2])
    chosen, images = open_cache(out, str(tmp_path / "list.txt")), list_images(root / "train")
    assert (len(chosen), chosen.classes, set(chosen.labels.tolist())) == (8, CLASSES[2:], {0})
    np.testing.assert_array_equal(chosen.read(3), images.read(16 + 3))


def test_flipped_bit_is_found(packed: tuple[Path, Path], tmp_path: Path) -> None:
    out = copy(packed[1], tmp_path / "cache")
    path = out / "shard-00001.bin"
    pixels = bytearray(path.read_bytes())
    pixels[-1] ^= 1  # the last image of the shard: detected by the full check
    path.write_bytes(pixels)
    open_cache(out)
    with pytest.raises(ValueError, match=r"shard-00001\.bin: the checksum of image 19 of the cache differs"):
        open_cache(out, every_image=True)
    pixels[0] ^= 1  # the first one: detected whenever the cache is opened
    path.write_bytes(pixels)
    with pytest.raises(ValueError, match="the checksum of image 10 of the cache differs"):
        open_cache(out)


@pytest.mark.parametrize("name", ["shard-00002.bin", "shard-00002.index.npy"])
def test_cut_or_missing_file_is_named(packed: tuple[Path, Path], tmp_path: Path, name: str) -> None:
    out = copy(packed[1], tmp_path / "cache")
    os.truncate(out / name, (out / name).stat().st_size - 1)
    with pytest.raises(ValueError, match=r"shard-00002\.bin: its size or index differs"):
        open_cache(out)
    (out / name).unlink()
    with pytest.raises(ValueError, match="this shard or its index is missing"):
        open_cache(out)


def test_interrupted_packing_resumes_and_keeps_complete_shards(packed: tuple[Path, Path], tmp_path: Path) -> None:
    root, whole = packed
    out = tmp_path / "cache"
    steps = pack_images(list_images(root / "train"), out, PACKING)
    assert next(steps) == 10
    steps.close()
    for name in ("shard-00001.bin", "shard-00001.index.npy", "shard-00002.index.npy"):
        (out / name).unlink(missing_ok=True)
    (out / ".partial-shard-00002.bin.x").write_bytes(b"left by a crash")
    with pytest.raises(ValueError, match="no complete cache"):
        open_cache(out)
    written = (out / "shard-00000.bin").stat().st_mtime_ns
    assert pack(root, out)[-1] == 24
    assert (out / "shard-00000.bin").stat().st_mtime_ns == written
    for path in whole.iterdir():
        assert (out / path.name).read_bytes() == path.read_bytes()
    assert not list(out.glob(".partial*"))
    assert pack(root, out) == []


def test_cache_of_other_images_is_not_overwritten(packed: tuple[Path, Path], tmp_path: Path) -> None:
    other = write_images(tmp_path, 3)
    with pytest.raises(ValueError, match="contains a cache of other images or with another config"):
        pack(other, packed[1])


def test_broken_image_stops_packing_or_is_skipped(tmp_path: Path) -> None:
    root = write_images(tmp_path, 4)
    (root / "train" / CLASSES[0] / f"{CLASSES[0]}_2.JPEG").write_bytes(b"broken")
    with pytest.raises(BrokenImageError, match=f"{CLASSES[0]}_2.JPEG"):
        pack(root, tmp_path / "a")
    pack(root, tmp_path / "b", Packing(images_per_shard=3, skip_broken=True))
    cache, images = open_cache(tmp_path / "b", every_image=True), list_images(root / "train")
    assert len(cache) == 11
    np.testing.assert_array_equal(cache.read(2), images.read(3))


def test_shrink_bounds_the_short_side() -> None:
    pixels = np.zeros((75, 100, 3), np.uint8)
    assert shrink(pixels, 0).shape == shrink(pixels, 80).shape == (75, 100, 3)
    assert shrink(pixels, 30).shape == (30, 40, 3)


def test_command_packs_checks_and_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_images(tmp_path, 2)
    command.main([str(root / "train"), str(tmp_path / "cache"), "images_per_shard=4", "workers=1"])
    assert "6 images of 3 classes, skipped 0 unreadable" in capsys.readouterr().out
    assert len(open_cache(tmp_path / "cache")) == 6


def test_help_does_not_import_torch() -> None:
    script = (
        "import sys; sys.argv[1:] = ['--help']; import runpy; runpy.run_module('tools.pack_images', run_name='x'); "
    )
    script += "print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"
