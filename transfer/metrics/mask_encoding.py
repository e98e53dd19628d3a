"""Paste masks and encode them as RLE from the box's crop only; equals Detectron2 followed by pycocotools.

Detectron2 pastes every mask into a full-size bitmap (detectron2/layers/mask_ops.py) and encodes all its pixels. Here:
1. bilinear sampling is separable, so the crop is two small matrix products;
2. their rounding differs from grid_sample's in the last bits, so pixels near the threshold are sampled again with
   grid_sample itself;
3. the run lengths come from the value changes in the crop; pycocotools packs them.

Shapes: N masks of M × M pixels, an image of H × W, crops of h × w, S pixels along one axis of all crops.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pycocotools import mask as rle_codec
from torch.nn.functional import grid_sample

THRESHOLD = 0.5
"""Smallest value of a pixel that belongs to the mask; detectron2's default in detector_postprocess."""
DOUBT_PER_PIXEL = 1e-6
"""Times M: distance from the threshold within which a value is recomputed. A position in the mask is exact to about M
times 1.2e-7, and a value changes by at most 1 between neighbouring mask pixels; few pixels are this close."""

Rle = dict[str, Any]
FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class _Axis:
    """The crops' pixels along one axis, one crop after the other."""

    first: IntArray  # (N,) the first pixel of each crop
    bounds: IntArray  # (N+1,) offsets of each crop's pixels in the two arrays below
    grid: FloatArray  # (S,) positions in the box, -1 … 1
    weights: FloatArray  # (S, M+1) bilinear weights, followed by a one


def encode_pasted_masks(masks: torch.Tensor, boxes: torch.Tensor, height: int, width: int) -> list[Rle]:
    """Return RLE ({"size": [H, W], "counts": str}) of `masks` pasted into their boxes.

    Args:
        masks: (N, M, M) float, in [0, 1].
        boxes: (N, 4) x1, y1, x2, y2 in pixels of the image, not empty.
        height: H.
        width: W.

    """
    if len(masks) == 0:
        return []
    masks = masks.detach().cpu().float()
    corners = boxes.detach().cpu().float().numpy()  # (N, 4)
    x = _prepare_axis(corners[:, 0], corners[:, 2], width, masks.shape[-1])
    y = _prepare_axis(corners[:, 1], corners[:, 3], height, masks.shape[-1])
    runs = [
        {"size": [height, width], "counts": _encode_one(index, masks[index], x, y, (height, width))}
        for index in range(len(masks))
    ]
    packed = rle_codec.frPyObjects(runs, height, width)
    return [{"size": rle["size"], "counts": rle["counts"].decode()} for rle in packed]


def encode_bitmaps(bitmaps: torch.Tensor) -> list[Rle]:
    """Return the RLE of full-size bitmaps (N, H, W), for masks that are already pasted."""
    columns_first = np.asfortranarray(bitmaps.cpu().numpy().astype(np.uint8).transpose(1, 2, 0))
    return [{"size": rle["size"], "counts": rle["counts"].decode()} for rle in rle_codec.encode(columns_first)]


def _prepare_axis(low: FloatArray, high: FloatArray, length: int, size: int) -> _Axis:
    """Return crops and weights for boxes from `low` to `high` (N,) in an image of `length` pixels, masks of `size`.

    The crop (one pixel of margin, inside the image) and the float32 operations for the positions are those of
    detectron2's _do_paste_mask, so the numbers are identical.
    """
    first = np.maximum(np.floor(low).astype(np.int64) - 1, 0)
    last = np.maximum(np.minimum(np.ceil(high).astype(np.int64) + 1, length), first)
    bounds = np.concatenate([[0], np.cumsum(last - first)])
    owner = np.repeat(np.arange(len(low)), last - first)  # (S,)
    pixel = np.arange(bounds[-1]) - bounds[owner] + first[owner]
    centre = pixel.astype(np.float32) + np.float32(0.5)
    two, one = np.float32(2), np.float32(1)
    grid = (centre - low[owner]) / (high - low)[owner] * two - one
    # grid_sample with align_corners=False, zeros outside
    position = ((grid + one) * np.float32(size) - one) / two
    weights = np.ones((len(grid), size + 1), dtype=np.float32)
    distance = np.abs(position[:, None] - np.arange(size, dtype=np.float32))
    np.maximum(one - distance, 0, out=weights[:, :size])
    return _Axis(first, bounds, grid, weights)


def _encode_one(index: int, mask: torch.Tensor, x: _Axis, y: _Axis, image: tuple[int, int]) -> IntArray:
    """Return the run lengths, background first, of one mask (M, M) pasted into its box."""
    columns = slice(x.bounds[index], x.bounds[index + 1])
    rows = slice(y.bounds[index], y.bounds[index + 1])
    size = len(mask)
    table = np.full((columns.stop - columns.start, size + 1), -THRESHOLD, dtype=np.float32)  # (w, M+1)
    np.matmul(x.weights[columns, :size], mask.numpy().T, out=table[:, :size])
    values = table @ y.weights[rows].T  # (w, h) value - threshold, column by column, as RLE counts
    # A zero before the first column and after each one, so that no run spans two columns here.
    flat = np.zeros(values.shape[0] * (values.shape[1] + 1) + 1, dtype=np.bool_)
    inside = flat[1:].reshape(values.shape[0], -1)[:, :-1]
    np.greater_equal(values, 0, out=inside)
    doubtful = np.flatnonzero(np.abs(values, out=values) < DOUBT_PER_PIXEL * size)
    if len(doubtful):
        column, row = np.divmod(doubtful, values.shape[1])
        points = np.stack([x.grid[columns][column], y.grid[rows][row]], axis=1)  # (P, 2)
        exact = grid_sample(mask[None, None], torch.from_numpy(points)[None, None], align_corners=False)
        inside[column, row] = exact[0, 0, 0].numpy() >= THRESHOLD
    return _count_runs(flat, values.shape[1], (int(x.first[index]), int(y.first[index])), image)


def _count_runs(
    flat: npt.NDArray[np.bool_], crop_height: int, corner: tuple[int, int], image: tuple[int, int]
) -> IntArray:
    """Return the run lengths, background first, of an image that is zero outside a crop at `corner` (left, top).

    `flat` holds a zero, then the crop's columns, each followed by a zero.
    """
    height, width = image
    column, row = np.divmod(np.flatnonzero(flat[1:] != flat[:-1]), crop_height + 1)
    changes = (column + corner[0]) * height + row + corner[1]  # where runs of ones start, end, start, …
    if crop_height == height and len(changes) > 2:  # a run that reaches the bottom continues in the next column
        touching = np.flatnonzero(changes[1:-1:2] == changes[2::2]) * 2 + 1
        changes = np.delete(changes, np.concatenate([touching, touching + 1]))
    edges = np.concatenate([[0], changes, [height * width]])
    runs: IntArray = edges[1:] - edges[:-1]
    return runs[:-1] if len(runs) > 1 and runs[-1] == 0 else runs
