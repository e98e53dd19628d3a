from typing import Any

import numpy as np
import pytest
import torch
from detectron2.layers import paste_masks_in_image
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, Instances
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as rle_codec

from transfer.detection.rle_inference import RleInference, rescale_with_rles
from transfer.metrics.mask_encoding import encode_bitmaps, encode_pasted_masks


def encode_in_detectron2s_way(bitmaps: torch.Tensor) -> list[dict[str, Any]]:
    rles = [rle_codec.encode(np.array(bitmap[:, :, None], order="F", dtype="uint8"))[0] for bitmap in bitmaps]
    return [{"size": rle["size"], "counts": rle["counts"].decode()} for rle in rles]


def make_masks(generator: torch.Generator, count: int, side: int, kind: str) -> torch.Tensor:
    if kind == "noise":
        return torch.rand(count, side, side, generator=generator)
    if kind == "half":
        return torch.full((count, side, side), 0.5)
    if kind == "full":
        return torch.ones(count, side, side)
    coarse = torch.randn(count, 1, 5, 5, generator=generator)
    return (torch.nn.functional.interpolate(coarse, size=(side, side), mode="bicubic")[:, 0] * 4).sigmoid()


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    height=st.integers(2, 300),
    width=st.integers(2, 300),
    side=st.sampled_from([7, 14, 28]),
    kind=st.sampled_from(["noise", "half", "full", "smooth"]),
    whole_height=st.booleans(),
)
def test_rle_equals_pasting_and_encoding(
    seed: int, height: int, width: int, side: int, kind: str, whole_height: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    masks = make_masks(generator, 12, side, kind)
    corners = torch.rand(12, 2, 2, generator=generator).sort(dim=1).values * torch.tensor([width, height])
    boxes = corners.reshape(12, 4)
    if whole_height:  # runs then continue from one column into the next
        boxes[:, 1], boxes[:, 3] = 0, height
    kept = Boxes(boxes).nonempty()
    masks, boxes = masks[kept], boxes[kept]
    expected = encode_in_detectron2s_way(paste_masks_in_image(masks, boxes, (height, width)))
    assert encode_pasted_masks(masks, boxes, height, width) == expected


def test_no_masks_give_no_rle() -> None:
    assert encode_pasted_masks(torch.zeros(0, 28, 28), torch.zeros(0, 4), 10, 10) == []


def test_bitmaps_are_encoded_as_pycocotools_does() -> None:
    bitmaps = torch.rand(5, 30, 40, generator=torch.Generator().manual_seed(0)) > 0.5
    assert encode_bitmaps(bitmaps) == encode_in_detectron2s_way(bitmaps)


def make_raw_instances() -> Instances:
    generator = torch.Generator().manual_seed(1)
    low = torch.rand(6, 2, generator=generator) * 60
    boxes = torch.cat([low, low + torch.rand(6, 2, generator=generator) * 60], dim=1)
    boxes[2] = torch.tensor([200.0, 5, 220, 9])  # outside: dropped as empty after clipping
    instances = Instances((100, 100))
    instances.pred_boxes = Boxes(boxes)
    instances.scores = torch.rand(6, generator=generator)
    instances.pred_classes = torch.arange(6)
    instances.pred_masks = make_masks(generator, 6, 28, "smooth")[:, None]
    return instances


def test_rescaling_with_rles_equals_detectron2s_postprocessing() -> None:
    expected = detector_postprocess(make_raw_instances(), 80, 170)
    got = rescale_with_rles(make_raw_instances(), 80, 170)
    assert got.pred_rles == encode_in_detectron2s_way(expected.pred_masks)
    assert len(got) == 5
    assert got.pred_classes.tolist() == expected.pred_classes.tolist()
    assert torch.equal(got.pred_boxes.tensor, expected.pred_boxes.tensor)
    assert not got.has("pred_masks")


class RawDetector(torch.nn.Module):
    """Give fixed raw detections, as GeneralizedRCNN.inference does before its postprocessing."""

    def inference(self, inputs: list[dict[str, Any]], do_postprocess: bool) -> list[Instances]:
        assert not do_postprocess
        return [make_raw_instances() for _ in inputs]


@pytest.mark.parametrize("size", [{}, {"height": 80, "width": 170}])
def test_rle_inference_gives_the_images_own_size(size: dict[str, int]) -> None:
    model = RawDetector().eval()
    wrapper = RleInference(model)
    assert not wrapper.training
    (output,) = wrapper([{"image": torch.zeros(3, 100, 100), **size}])
    expected = [size.get("height", 100), size.get("width", 100)]
    assert all(rle["size"] == expected for rle in output["instances"].pred_rles)
