"""Run mask inference without full-size bitmaps: raw masks are encoded as RLE directly."""

from typing import Any

import torch
from detectron2.modeling.postprocessing import detector_postprocess

from transfer.metrics.mask_encoding import encode_pasted_masks


class RleInference(torch.nn.Module):
    """Wrap a GeneralizedRCNN for evaluation: `pred_rles` (COCO's RLE) replace `pred_masks` (n, H, W).

    Pass it to inference_on_dataset instead of the model; it shares the model's weights and training mode.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = getattr(model, "module", model)  # unwrap DistributedDataParallel, not needed for inference
        self.training = model.training

    def forward(self, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return [{"instances": Instances at the image's original size}], as the model's inference does."""
        raw = self.model.inference(inputs, do_postprocess=False)
        return [
            {"instances": rescale_with_rles(instances, *_output_size(image, instances))}
            for image, instances in zip(inputs, raw, strict=True)
        ]


def rescale_with_rles(instances: Any, height: int, width: int) -> Any:
    """Return raw `instances` (pred_masks (n, 1, M, M), if any) rescaled to height × width, with masks as `pred_rles`.

    Detectron2's detector_postprocess scales and clips the boxes and drops empty ones.
    """
    if not instances.has("pred_masks"):
        return detector_postprocess(instances, height, width)
    instances.mask_pixels = instances.pred_masks[:, 0]
    instances.remove("pred_masks")  # keeps detector_postprocess from pasting them
    instances = detector_postprocess(instances, height, width)
    instances.pred_rles = encode_pasted_masks(instances.mask_pixels, instances.pred_boxes.tensor, height, width)
    instances.remove("mask_pixels")
    return instances


def _output_size(image: dict[str, Any], instances: Any) -> tuple[int, int]:
    height, width = instances.image_size
    return int(image.get("height", height)), int(image.get("width", width))
