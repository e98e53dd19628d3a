"""Paint scenes of real handwritten digits, bright on dark textured backgrounds, with exact boxes and masks.

Images are grey, strokes bold and backgrounds low in contrast: colour or a strong texture would identify an image
without its digit, and a short contrastive run would learn only that.

The digits are scikit-learn's bundled copy of the UCI "Optical Recognition of Handwritten Digits" test set: 1,797 images
of 8 x 8 pixels, values 0 to 16. An image is uint8 (height, width, 3), RGB; an alpha is float32 in [0, 1].
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]

TEST_SHARE = 0.3
"""Fraction of the handwritten digits of each class reserved for test and val images."""
TEXTURE_PX = 256
"""Side of a background texture in pixels; backgrounds are crops of it."""
TEXTURES = 48
"""Backgrounds per split: few, so that many images share one and a background does not identify its image."""
BORDER = 1
"""Empty pixels around the 8 x 8 strokes, so that rotation does not clip them."""
GROUND, GROUND_SWING, GRAIN = (0.08, 0.22), (0.01, 0.04), 0.01
"""Mean level of a background, amplitude of its texture, standard deviation of its noise; 0 is black, 1 white."""
DIGIT, FAINT_DIGIT = (0.8, 1.0), (0.35, 0.45)
"""Level of a digit, and of one marked difficult."""
STROKE_EDGE, STROKE_SOFTNESS = 0.3, 0.15
"""Alpha is 0.5 where the ink equals the edge and rises from 0 to 1 over the softness around it."""


@dataclass(frozen=True)
class DigitPool:
    """The handwritten digits and the backgrounds of one split."""

    strokes: Floats  # (n, 10, 10) in [0, 1]
    labels: NDArray[np.int64]  # (n,)
    textures: tuple[Floats, ...]  # each (TEXTURE_PX, TEXTURE_PX) in [-1, 1]


@dataclass(frozen=True)
class PaintedDigit:
    """One digit painted into an image."""

    label: int
    mask: Mask  # (height, width), visible pixels, holes filled
    truncated: bool
    difficult: bool
    crowd: bool = False

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Left, top, right, bottom in pixels; right and bottom exclusive."""
        rows, columns = np.flatnonzero(self.mask.any(axis=1)), np.flatnonzero(self.mask.any(axis=0))
        return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


@dataclass(frozen=True)
class SceneStyle:
    """Ranges (inclusive) of a scene: image sides in pixels, number of digits, digit sides in pixels."""

    side_px: tuple[int, int] = (128, 160)
    digits: tuple[int, int] = (1, 6)
    digit_px: tuple[int, int] = (24, 72)
    difficult_share: float = 0.03
    truncated_share: float = 0.05
    crowd_share: float = 0.0


def load_pools(seed: int) -> dict[str, DigitPool]:
    """Return the pools "train" and "test": disjoint digits, split class by class, and disjoint backgrounds."""
    from sklearn.datasets import load_digits  # heavy

    bunch = load_digits()
    strokes = np.pad(bunch.images.astype(np.float32) / 16, ((0, 0), (BORDER, BORDER), (BORDER, BORDER)))
    labels = bunch.target.astype(np.int64)
    order = np.random.default_rng([seed, 0]).permutation(len(labels))
    is_test = np.zeros(len(labels), dtype=bool)
    for label in range(10):
        members = order[labels[order] == label]
        is_test[members[: round(TEST_SHARE * len(members))]] = True
    rng = np.random.default_rng([seed, 1])
    pools = {}
    for name, chosen in (("train", ~is_test), ("test", is_test)):
        textures = tuple(make_texture(rng) for _ in range(TEXTURES))
        pools[name] = DigitPool(strokes=strokes[chosen], labels=labels[chosen], textures=textures)
    return pools


def make_texture(rng: np.random.Generator) -> Floats:
    """Return a grey texture (TEXTURE_PX, TEXTURE_PX) in [-1, 1]: smooth noise, with or without a pattern."""
    grain = int(rng.integers(4, 33))
    noise = rng.standard_normal((grain, grain)).astype(np.float32)
    texture = cv2.resize(noise, (TEXTURE_PX, TEXTURE_PX), interpolation=cv2.INTER_CUBIC)
    y, x = np.mgrid[:TEXTURE_PX, :TEXTURE_PX].astype(np.float32)
    angle, period = rng.uniform(0, np.pi), rng.uniform(8, 40)
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    waves = (
        np.zeros_like(x),
        np.sin(2 * np.pi * along / period),
        np.sin(2 * np.pi * along / period) * np.sin(2 * np.pi * across / period),
        np.sin(2 * np.pi * np.hypot(x - TEXTURE_PX / 2, y - TEXTURE_PX / 2) / period),
    )
    texture = texture + rng.uniform(0.5, 2) * waves[int(rng.integers(len(waves)))]
    return np.asarray(texture / max(float(np.abs(texture).max()), 1e-6), dtype=np.float32)


def paint_scene(pool: DigitPool, rng: np.random.Generator, style: SceneStyle) -> tuple[Image, list[PaintedDigit]]:
    """Return an image of several digits and its digits.

    At least one is neither difficult nor a crowd; a new digit overlaps earlier boxes by at most 10 %.
    """
    height, width = (int(side) for side in rng.integers(style.side_px[0], style.side_px[1] + 1, 2))
    canvas = _paint_background(pool, rng, height, width)
    painted: list[PaintedDigit] = []
    if rng.random() < style.crowd_share:
        painted.append(_paint_crowd(canvas, pool, rng))
    for _ in range(int(rng.integers(style.digits[0], style.digits[1] + 1))):
        side = min(int(rng.integers(style.digit_px[0], style.digit_px[1] + 1)), height - 4, width - 4)
        truncated = rng.random() < style.truncated_share
        difficult = rng.random() < style.difficult_share
        for _attempt in range(12):
            place = _choose_place(rng, canvas.shape, side, over_the_edge=truncated)
            if not any(_overlap(place, side, other.box) > 0.1 for other in painted):
                digit = _paint_digit(canvas, pool, rng, (place, side, difficult))
                painted.extend([digit] if digit else [])
                break
    if not any(not digit.crowd and not digit.difficult for digit in painted):
        return paint_scene(pool, rng, style)
    return _as_image(canvas), painted


def paint_single(pool: DigitPool, rng: np.random.Generator, label: int, side_px: int) -> Image:
    """Return a square image of one digit of class `label`, whose square is 60 to 95 % of the image's side."""
    canvas = _paint_background(pool, rng, side_px, side_px)
    side = int(side_px * rng.uniform(0.6, 0.95))
    place = tuple(int(value) for value in rng.integers(0, side_px - side + 1, 2))
    _paint_digit(canvas, pool, rng, ((place[0], place[1]), side, False), label)
    return _as_image(canvas)


def _paint_background(pool: DigitPool, rng: np.random.Generator, height: int, width: int) -> Floats:
    """Return the canvas (height, width) in [0, 1]: a low-contrast texture around a dark level."""
    texture = pool.textures[int(rng.integers(len(pool.textures)))]
    top, left = int(rng.integers(TEXTURE_PX - height + 1)), int(rng.integers(TEXTURE_PX - width + 1))
    canvas = texture[top : top + height, left : left + width] * np.float32(rng.uniform(*GROUND_SWING))
    canvas += np.float32(rng.uniform(*GROUND))
    canvas += rng.standard_normal((height, width), dtype=np.float32) * np.float32(GRAIN)
    return np.clip(canvas, 0, 1, out=canvas)


def _paint_digit(  # where: (top, left), side, difficult
    canvas: Floats,
    pool: DigitPool,
    rng: np.random.Generator,
    where: tuple[tuple[int, int], int, bool],
    label: int | None = None,
) -> PaintedDigit | None:
    """Paint one digit into `canvas`; return None if less than half of its strokes is inside."""
    (top, left), side, difficult = where
    members = np.arange(len(pool.labels)) if label is None else np.flatnonzero(pool.labels == label)
    chosen = int(members[int(rng.integers(len(members)))])
    alpha = _draw_strokes(pool.strokes[chosen], rng, side)
    light = np.float32(rng.uniform(*(FAINT_DIGIT if difficult else DIGIT)))
    height, width = canvas.shape[:2]
    rows, columns = slice(max(top, 0), min(top + side, height)), slice(max(left, 0), min(left + side, width))
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return None
    seen = alpha[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    if (seen > 0.5).sum() < 0.5 * (alpha > 0.5).sum():
        return None
    canvas[rows, columns] += seen * (light - canvas[rows, columns])
    solid = np.zeros((height, width), dtype=np.uint8)
    solid[rows, columns] = seen > 0.5
    truncated = bool((seen > 0.5).sum() < (alpha > 0.5).sum())
    return PaintedDigit(int(pool.labels[chosen]), _fill_holes(solid), truncated=truncated, difficult=difficult)


def _paint_crowd(canvas: Floats, pool: DigitPool, rng: np.random.Generator) -> PaintedDigit:
    """Paint a cluster of five to nine small digits of one class; its mask is their union."""
    label, side = int(rng.integers(10)), int(rng.integers(14, 21))
    height, width = canvas.shape[:2]
    middle = np.array([rng.uniform(0.3, 0.7) * height, rng.uniform(0.3, 0.7) * width])
    mask = np.zeros((height, width), dtype=bool)
    for _ in range(int(rng.integers(5, 10))):
        top, left = (int(value) for value in middle + rng.normal(0, 0.7 * side, 2) - side / 2)
        digit = _paint_digit(canvas, pool, rng, ((top, left), side, False), label)
        if digit is not None:
            mask |= digit.mask
    return PaintedDigit(label, mask, truncated=False, difficult=False, crowd=True)


def _draw_strokes(strokes: Floats, rng: np.random.Generator, side: int) -> Floats:
    """Return the alpha (side, side): bicubic scaling, rotation up to 15 degrees, anisotropic stretch up to 15 %."""
    angle, stretch = np.deg2rad(rng.uniform(-15, 15)), rng.uniform(0.85, 1.15)
    scale = side / strokes.shape[0]
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) * scale
    turn = turn * np.array([stretch, 1 / stretch])
    middle = (np.array(strokes.shape) - 1) / 2
    shift = (side - 1) / 2 - turn @ middle
    matrix = np.concatenate([turn, shift[:, None]], axis=1)
    values = cv2.warpAffine(strokes, matrix, (side, side), flags=cv2.INTER_CUBIC)
    return np.asarray(np.clip((values - STROKE_EDGE) / STROKE_SOFTNESS + 0.5, 0, 1), dtype=np.float32)


def _choose_place(
    rng: np.random.Generator, shape: tuple[int, ...], side: int, *, over_the_edge: bool
) -> tuple[int, int]:
    """Return (top, left): inside the image, or with 20 to 40 % of the side beyond one edge."""
    place = [int(rng.integers(0, length - side + 1)) for length in shape[:2]]
    if over_the_edge:
        axis, beyond = int(rng.integers(2)), int(side * rng.uniform(0.2, 0.4))
        place[axis] = -beyond if rng.random() < 0.5 else shape[axis] - side + beyond
    return place[0], place[1]


def _overlap(place: tuple[int, int], side: int, box: tuple[int, int, int, int]) -> float:
    """Return the intersection of `box` and the square, divided by the smaller of the two areas."""
    left, top, right, bottom = box
    height = min(bottom, place[0] + side) - max(top, place[0])
    width = min(right, place[1] + side) - max(left, place[1])
    return max(height, 0) * max(width, 0) / min(side * side, (right - left) * (bottom - top))


def _fill_holes(solid: NDArray[np.uint8]) -> Mask:
    contours, _ = cv2.findContours(solid, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    filled = np.zeros_like(solid)
    cv2.drawContours(filled, contours, -1, 1, thickness=cv2.FILLED)
    return np.asarray(filled, dtype=bool)


def _as_image(canvas: Floats) -> Image:
    return np.repeat(np.round(canvas * 255).astype(np.uint8)[..., None], 3, axis=2)
