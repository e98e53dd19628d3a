"""Download VOC or COCO, verify the archives, and unpack them in the layout that every command reads.

  python -m tools.data.fetch_data voc data/sets        VOC2007 (trainval and test in one folder), VOC2012; 2.9 GB
  python -m tools.data.fetch_data coco data/sets       COCO 2017: train, val, annotations, 20.4 GB
  python -m tools.data.fetch_data in100-list data/sets the class list of ImageNet-100 (ImageNet itself needs an account)

mirror=URL downloads from URL/<file name> and verifies the same digests. keep=true keeps the archives in ROOT/.archives.
Run the same command again to resume after a stop; it returns at once if everything is there. An archive is unpacked
only if its size and digest match; an existing file with different content is never overwritten.
"""

import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pretrain.runtime.command_line import UsageError, run_command, split_arguments
from pretrain.runtime.settings import read_settings
from pretrain.runtime.storage import read_json, write_json, write_text
from tools.data.archives import Archive, download, unpack

VOC_SOURCE = (
    "torchvision, torchvision/datasets/voc.py (addresses, MD5); tensorflow/datasets, url_checksums/voc.txt (sizes)"
)
COCO_SOURCE = "tensorflow/datasets, tensorflow_datasets/url_checksums/coco.txt"
VOC_URL = "https://thor.robots.ox.ac.uk/pascal/VOC"
COCO_URL = "http://images.cocodataset.org"
SETS = {
    "voc": (
        Archive(
            url=f"{VOC_URL}/voc2007/VOCtrainval_06-Nov-2007.tar",
            size_bytes=460_032_000,
            digest="md5:c52e279531787c972589f7e41ab4ae64",
            strip="VOCdevkit",
            source=VOC_SOURCE,
        ),
        Archive(
            url=f"{VOC_URL}/voc2007/VOCtest_06-Nov-2007.tar",
            size_bytes=451_020_800,
            digest="md5:b6e924de25625d8de591ea690078ad9f",
            strip="VOCdevkit",
            source=VOC_SOURCE,
        ),
        Archive(
            url=f"{VOC_URL}/voc2012/VOCtrainval_11-May-2012.tar",
            size_bytes=1_999_639_040,
            digest="md5:6cd6e144f989b92b3379bac3b3de84fd",
            strip="VOCdevkit",
            source=VOC_SOURCE,
        ),
    ),
    "coco": (
        Archive(
            url=f"{COCO_URL}/annotations/annotations_trainval2017.zip",
            size_bytes=252_907_541,
            digest="sha256:113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268",
            into="coco",
            source=COCO_SOURCE,
        ),
        Archive(
            url=f"{COCO_URL}/zips/val2017.zip",
            size_bytes=815_585_330,
            digest="sha256:4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05",
            into="coco",
            source=COCO_SOURCE,
        ),
        Archive(
            url=f"{COCO_URL}/zips/train2017.zip",
            size_bytes=19_336_861_798,
            digest="sha256:69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929",
            into="coco",
            source=COCO_SOURCE,
        ),
    ),
}
"""The archives of each data set, with the sources of their URLs and digests."""
ARCHIVES, DONE = ".archives", ".fetched"
CLASS_LIST = "imagenet100.txt"


@dataclass(frozen=True, kw_only=True)
class FetchSettings:
    """Where to download from, and whether to keep the archives."""

    mirror: str = ""
    """Download from MIRROR/<file name>; empty: from the original URLs."""
    keep: bool = False
    """Keep the archives in ROOT/.archives after unpacking."""


def main(arguments: Sequence[str]) -> int:
    """Download what is missing; print where it is."""
    (what, root), overrides = split_arguments(arguments, ["WHAT", "ROOT"])
    settings = read_settings(FetchSettings, None, overrides)
    if what == "in100-list":
        return write_class_list(Path(root))
    if what not in SETS:
        raise UsageError(f"expected {', '.join(SETS)} or in100-list, got {what!r}. Add --help for an example.")
    fetch(SETS[what], Path(root), settings)
    print(f"{root}: {what} is complete; `python -m tools.check_data {root}` counts and checks its files")
    return 0


def fetch(archives: Sequence[Archive], root: Path, settings: FetchSettings) -> None:
    """Download, verify and unpack every archive that is not recorded in ROOT/.fetched.

    Raises:
        ValueError: too little disk space, a wrong digest, or an existing file with different content.
        OSError: the server cannot be reached.

    """
    missing = [archive for archive in archives if not _is_done(archive, root)]
    folder = root / ARCHIVES
    folder.mkdir(parents=True, exist_ok=True)
    _refuse_full_disk(missing, root, folder)
    for archive in missing:
        url = f"{settings.mirror.rstrip('/')}/{archive.name}" if settings.mirror else archive.url
        path = download(archive, url, folder)
        count = unpack(archive, path, root)
        write_json(root / DONE / f"{archive.name}.json", {"digest": archive.digest, "files": count, "from": url})
        print(f"{archive.name}: {count} files", flush=True)
        if not settings.keep:
            path.unlink()
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def write_class_list(root: Path) -> int:
    """Write ROOT/imagenet100.txt, the list that data.class_list=imagenet100 names."""
    from pretrain.input.images import CLASS_LISTS  # heavy: NumPy, Pillow

    write_text(root / CLASS_LIST, CLASS_LISTS["imagenet100"].read_text())
    print(f"{root / CLASS_LIST}: 100 classes; data.class_list=imagenet100 selects the same classes without the file")
    return 0


def _is_done(archive: Archive, root: Path) -> bool:
    path = root / DONE / f"{archive.name}.json"
    return path.is_file() and read_json(path).get("digest") == archive.digest


def _refuse_full_disk(missing: Sequence[Archive], root: Path, folder: Path) -> None:
    """Raise ValueError if there is too little space: the sum of the archives plus the largest once more."""
    if not missing:
        return
    there = sum(path.stat().st_size for path in folder.iterdir())
    sizes = [archive.size_bytes for archive in missing]
    needed, free = sum(sizes) + max(sizes) - there, shutil.disk_usage(root).free
    if needed > free:
        raise ValueError(
            f"{root}: needs {needed / 1e9:.1f} GB, has {free / 1e9:.1f} GB free; free space or choose another folder"
        )


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
