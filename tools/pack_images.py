"""Decode an image folder once into a memory-mapped cache.

  python -m tools.pack_images imagenet/train imagenet-cache workers=8
  python -m tools.pack_images imagenet/train imagenet100-cache class_list=imagenet100

Pretraining reads it with data.cache=imagenet-cache. Run the same command again to resume after a kill. The finished
cache is verified image by image (check=false skips this). Raw pixels take about 530 KB per image at ImageNet's sizes,
680 GB for all of ImageNet-1K; short_side_px=256 takes less than half and changes the crops slightly. Other options:
images_per_shard=4096 skip_broken=true max_megapixels=179
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from pretrain.runtime.command_line import run_command, split_arguments
from pretrain.runtime.settings import read_settings


@dataclass(frozen=True, kw_only=True)
class PackSettings:
    """What to pack and how."""

    class_list: str = ""
    """imagenet100, or a text file with one class folder per line; empty: all classes."""
    images_per_shard: int = 4096
    """Images per shard file, 2 GB at ImageNet's sizes."""
    short_side_px: int = 0
    """Scale images with a longer short side down to this many pixels; 0: keep all pixels."""
    skip_broken: bool = False
    """Skip unreadable images instead of stopping."""
    max_megapixels: float = 179.0
    """Reject an image file that declares more, before decoding it."""
    workers: int = 2
    """Processes; each packs one shard at a time."""
    check: bool = True
    """Read every image back and compare the checksums."""


def main(arguments: Sequence[str]) -> None:
    """Pack, verify, and print the number of images."""
    (source, out), overrides = split_arguments(arguments, ["SRC", "OUT"])
    settings = read_settings(PackSettings, overrides=overrides)
    # heavy
    from pretrain.input.images import list_either
    from pretrain.input.packed import Packing, open_cache, pack_images
    from pretrain.runtime.progress import Heartbeat

    images = list_either(source, settings.class_list, max_megapixels=settings.max_megapixels)
    packing = Packing(
        images_per_shard=settings.images_per_shard,
        short_side_px=settings.short_side_px,
        skip_broken=settings.skip_broken,
    )
    heartbeat = Heartbeat(out, len(images), unit="images")
    for done in pack_images(images, out, packing, settings.workers):
        heartbeat.beat(done, "packing", now=True)
        print(f"{done} of {len(images)} images packed", flush=True)
    cache = open_cache(out, every_image=settings.check)
    print(f"{out}: {len(cache)} images of {len(cache.classes)} classes, skipped {len(images) - len(cache)} unreadable")


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
