"""Convert COCO's three mask formats to compressed RLE, and find RLE that is damaged or does not fill its image.

RLE counts pixels column by column, in alternating runs of background and object that together fill the image. In the
compressed form, a run is written in 5-bit digits, the lowest first, each as the character 48 + digit (+ 32 if more
follow); from the fourth run on, the difference from the run two before is written. Source: pycocotools, maskApi.c.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as rle_codec

from transfer.metrics.record_mistakes import Mistakes, lie_within

FAR = 10
"""Largest coordinate in image sides; larger ones are mistakes, and rasterising such a polygon would exhaust memory."""
CHUNK = 20_000
"""Number of RLEs checked at a time; takes some tens of MiB."""
LONGEST = 7
"""Maximum digits of a run: 35 bits exceed the number of pixels of any image."""
IntArray = npt.NDArray[np.int64]
Rle = dict[str, Any]


def encode_segmentation(value: Any, size: tuple[int, int], where: str, mistakes: Mistakes) -> Rle | None:
    """Return polygons or RLE as {"size": [height, width], "counts": str}; None, and a mistake, if it is not a mask.

    Polygons of fewer than three points enclose nothing and are ignored, as in Detectron2's training.

    Args:
        value: polygons, uncompressed or compressed RLE.
        size: (height, width) of the image in pixels.
        where: location of the record, for the mistake.
        mistakes: collects what is wrong.

    """
    if isinstance(value, Mapping):
        return _read_rle(value, size, where, mistakes)
    if not isinstance(value, list | tuple) or any(not isinstance(part, list | tuple) for part in value):
        mistakes.add("segmentations that are neither polygons nor RLE", where)
    elif any(len(part) % 2 for part in value):
        mistakes.add("polygons with an odd number of coordinates", where)
    elif not all(lie_within(part, FAR * max(size)) for part in value):
        mistakes.add(f"polygons with NaN, or with coordinates beyond {FAR} image sides", where)
    elif parts := [[float(number) for number in part] for part in value if len(part) >= 6]:
        return _as_text(rle_codec.merge(rle_codec.frPyObjects(parts, *size)))
    else:
        mistakes.add("segmentations without a polygon of three points", where)
    return None


def find_broken_rles(rles: Sequence[Mapping[str, Any]]) -> list[int]:
    """Return the indices of compressed RLEs that are damaged or whose runs do not fill their image."""
    return [
        start + index for start in range(0, len(rles), CHUNK) for index in _find_broken(rles[start : start + CHUNK])
    ]


def _read_rle(value: Mapping[str, Any], size: tuple[int, int], where: str, mistakes: Mistakes) -> Rle | None:
    counts = value.get("counts")
    if not isinstance(value.get("size"), list | tuple) or tuple(value["size"]) != size:
        kind = "RLE masks of another size than their image"
        mistakes.add(kind, f"{where}: {value.get('size')}, expected {list(size)} (height, width)")
    elif isinstance(counts, str | bytes):
        text = counts.decode(errors="replace") if isinstance(counts, bytes) else counts
        return {"size": list(size), "counts": text}
    elif not isinstance(counts, list | tuple) or any(type(run) is not int or run < 0 for run in counts):
        mistakes.add("RLE masks whose counts are neither a string nor non-negative integers", where)
    elif sum(counts) != size[0] * size[1]:
        mistakes.add("RLE masks whose runs do not fill their image", where)
    else:
        return _as_text(rle_codec.frPyObjects({"size": list(size), "counts": list(counts)}, *size))
    return None


def _find_broken(rles: Sequence[Mapping[str, Any]]) -> Iterator[int]:
    texts = [rle["counts"].encode("ascii", errors="replace") for rle in rles]
    lengths = np.array([len(text) for text in texts], dtype=np.int64)
    digits = np.frombuffer(b"".join(texts), dtype=np.uint8).astype(np.int64) - 48
    owner = np.repeat(np.arange(len(texts)), lengths)
    broken = lengths == 0
    broken[owner[(digits < 0) | (digits > 63)]] = True
    broken[lengths > 0] |= (digits[np.cumsum(lengths)[lengths > 0] - 1] & 32) != 0
    sound = ~broken[owner]
    digits, owner = digits[sound], owner[sound]
    if len(digits):
        number_owner, numbers, longest = _read_numbers(digits, owner)
        broken[number_owner[longest > LONGEST]] = True
        runs = _add_differences(numbers, number_owner)
        broken[number_owner[runs < 0]] = True
        totals = np.zeros(len(texts), dtype=np.int64)
        np.add.at(totals, number_owner, runs)
        broken |= totals != [rle["size"][0] * rle["size"][1] for rle in rles]
    yield from np.flatnonzero(broken).tolist()


def _read_numbers(digits: IntArray, owner: IntArray) -> tuple[IntArray, IntArray, IntArray]:
    """Return the owner, value and number of digits of each number in a sequence of digits."""
    ends = np.flatnonzero((digits & 32) == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    place = np.minimum(np.arange(len(digits)) - np.repeat(starts, lengths), LONGEST)
    values = np.add.reduceat((digits & 31) << (5 * place), starts)
    values -= np.where(digits[ends] & 16, np.int64(1) << (5 * np.minimum(lengths, LONGEST)), 0)
    return owner[ends], values, lengths


def _add_differences(numbers: IntArray, owner: IntArray) -> IntArray:
    """Return the run lengths; from each owner's fourth number on, `numbers` are differences from the run two before."""
    sums = numbers.copy()
    sums[0::2], sums[1::2] = np.cumsum(numbers[0::2]), np.cumsum(numbers[1::2])
    first = np.searchsorted(owner, owner)  # of the same owner
    position = np.arange(len(numbers)) - first
    begin = first + np.where(position % 2 == 1, 1, np.where(position == 0, 0, 2))
    before = np.where(begin >= 2, sums[np.maximum(begin - 2, 0)], 0)
    return np.asarray(sums - before)


def _as_text(rle: Mapping[str, Any]) -> Rle:
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode()}
