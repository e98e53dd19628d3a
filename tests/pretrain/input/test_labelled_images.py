"""Centre crops equal those with which published accuracies were measured."""

import numpy as np
import torch
import torchvision
from PIL import Image

from pretrain.input.labelled_images import centre_crop


def test_centre_crop_equals_torchvisions_resize_and_centre_crop() -> None:
    image = np.random.default_rng(0).integers(0, 256, (61, 90, 3)).astype(np.uint8)
    transforms = torchvision.transforms
    reference = transforms.CenterCrop(40)(transforms.Resize(48)(torch.from_numpy(image).permute(2, 0, 1)))
    cropped = centre_crop(image, 48, 40).astype(int)
    assert np.abs(cropped - reference.permute(1, 2, 0).numpy()).max() <= 1
    by_pil = np.asarray(transforms.CenterCrop(40)(transforms.Resize(48)(Image.fromarray(image))))
    assert np.abs(cropped - by_pil).max() <= 2
