"""Photometric steps against PIL, on the CPU and batched; compiled if CUDA is available."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as F
from PIL import Image, ImageFilter

from pretrain.input import device_photometrics, photometrics
from pretrain.input.view_parameters import BLUR, BRIGHTNESS, CONTRAST, GREY, HUE, RECIPES, SATURATION, choose_view
from tests.making.imagenet_like import make_photo

Steps = Sequence[tuple[int, float]]
PHOTOS = [make_photo(seed, 224, 224) for seed in range(4)]
ONE_LEVEL = [
    [(BRIGHTNESS, 0.6)],
    [(BRIGHTNESS, 1.4)],
    [(CONTRAST, 0.6)],
    [(CONTRAST, 1.4)],
    [(SATURATION, 0.6)],
    [(SATURATION, 1.4)],
    [GREY],
]


def apply_with_pil(image: Image.Image, steps: Steps) -> np.ndarray:
    for operation, amount in steps:
        if operation == BRIGHTNESS:
            image = F.adjust_brightness(image, amount)
        elif operation == CONTRAST:
            image = F.adjust_contrast(image, amount)
        elif (operation, amount) == GREY:
            image = F.rgb_to_grayscale(image, 3)
        elif operation == SATURATION:
            image = F.adjust_saturation(image, amount)
        elif operation == HUE:
            image = F.adjust_hue(image, amount)
        else:
            image = image.filter(ImageFilter.GaussianBlur(amount))
    return np.asarray(image).astype(np.int64)


def apply_on_cpu(image: Image.Image, steps: Steps) -> np.ndarray:
    return photometrics.apply_steps(np.array(image), steps).astype(np.int64)


def apply_in_batch(images: Sequence[Image.Image], steps: Sequence[Steps], device: str = "cpu") -> np.ndarray:
    batch = torch.from_numpy(np.stack([np.array(image) for image in images])).permute(0, 3, 1, 2)
    table = device_photometrics.pack_steps(steps).to(device)
    out = device_photometrics.apply_steps(batch.to(device), table).cpu()
    assert torch.equal(out, out.round()) and out.min() >= 0 and out.max() <= 255
    return out.permute(0, 2, 3, 1).long().numpy()


def draw_chains(count: int) -> list[Steps]:
    rng = np.random.default_rng(3)
    drawn = (choose_view(rng.random(60).tolist(), (224, 224), RECIPES["moco_v2"], 0.2).steps for _ in range(9 * count))
    return [steps for steps in drawn if len(steps) > 3][:count]


@pytest.mark.parametrize("steps", ONE_LEVEL, ids=str)
def test_blends_stay_within_one_level_of_pil(steps: Steps) -> None:
    for photo in PHOTOS:
        expected = apply_with_pil(photo, steps)
        assert np.abs(apply_on_cpu(photo, steps) - expected).max() <= 1
        assert np.abs(apply_in_batch([photo], [steps]) - expected).max() <= 1


@pytest.mark.parametrize("shift", [-0.1, -0.01, 0.0, 0.05, 0.4])
def test_hue_stays_near_pil(shift: float) -> None:
    for photo in PHOTOS:
        expected = apply_with_pil(photo, [(HUE, shift)])
        assert np.abs(apply_on_cpu(photo, [(HUE, shift)]) - expected).mean() <= 0.6
        assert np.abs(apply_in_batch([photo], [[(HUE, shift)]]) - expected).mean() <= 0.05


@pytest.mark.parametrize("sigma_px", [0.1, 0.3, 0.5, 1.0, 1.5, 2.0])
def test_blur_stays_near_pil_up_to_the_border(sigma_px: float) -> None:
    for photo in PHOTOS:
        expected = apply_with_pil(photo, [(BLUR, sigma_px)])
        for ours in (apply_on_cpu(photo, [(BLUR, sigma_px)]), apply_in_batch([photo], [[(BLUR, sigma_px)]])[0]):
            assert np.abs(ours - expected).mean() <= 0.8
            assert np.abs(ours - expected)[:3].mean() <= 2  # PIL's boxes replicate the border too
            assert abs((ours - expected).mean()) <= 0.6  # PIL itself loses half a level if its boxes are integer px


def test_chains_of_the_recipe_stay_within_the_bound_of_pil() -> None:
    chains = draw_chains(12)
    photos = [PHOTOS[number % len(PHOTOS)] for number in range(12)]
    expected = np.stack([apply_with_pil(photo, steps) for photo, steps in zip(photos, chains, strict=True)])
    on_cpu = np.stack([apply_on_cpu(photo, steps) for photo, steps in zip(photos, chains, strict=True)])
    assert np.abs(on_cpu - expected).mean() <= 0.6
    assert np.abs(apply_in_batch(photos, chains) - expected).mean() <= 0.6


def test_batched_images_are_independent() -> None:
    chains = [*draw_chains(3), ()]
    together = apply_in_batch(PHOTOS, chains)
    alone = [apply_in_batch([photo], [steps])[0] for photo, steps in zip(PHOTOS, chains, strict=True)]
    np.testing.assert_array_equal(together, np.stack(alone))
    np.testing.assert_array_equal(together[3], np.array(PHOTOS[3]))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_compiled_form_equals_the_plain_one_within_a_level() -> None:
    chains = draw_chains(4)
    assert np.abs(apply_in_batch(PHOTOS, chains, "cuda") - apply_in_batch(PHOTOS, chains)).mean() <= 0.05
