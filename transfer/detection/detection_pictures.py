"""Draw a detector's boxes and masks on a few test images."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.data import MetadataCatalog, build_detection_test_loader
from detectron2.structures import Instances

from pretrain.runtime.storage import make_file_name

MIN_SCORE = 0.3
"""Weaker detections are not drawn, but the strongest of an image always is."""
MIN_SIDE_PX = 384
"""Small images are enlarged to this shorter side, so that labels can be read."""
PALETTE = ((66, 133, 244), (219, 68, 55), (15, 157, 88), (244, 160, 0), (171, 71, 188), (0, 172, 193))
"""RGB, by class number in turn."""


def draw_detections(cfg: Any, model: Any, out: Path) -> list[Path]:
    """Write OUT/<image id>.png for the first RUN.DRAW_IMAGES images of the first test set; return their paths."""
    name = cfg.DATASETS.TEST[0]
    names = MetadataCatalog.get(name).thing_classes
    paths = []
    out.mkdir(parents=True, exist_ok=True)
    was_training = model.training
    model.eval()
    with torch.no_grad():
        for number, inputs in enumerate(build_detection_test_loader(cfg, name)):
            if number >= cfg.RUN.DRAW_IMAGES:
                break
            instances = model(inputs)[0]["instances"].to("cpu")
            image = cv2.cvtColor(cv2.imread(inputs[0]["file_name"]), cv2.COLOR_BGR2RGB)
            path = out / f"{make_file_name(str(inputs[0]['image_id']))}.png"
            cv2.imwrite(str(path), cv2.cvtColor(draw_instances(image, instances, names), cv2.COLOR_RGB2BGR))
            paths.append(path)
    model.train(was_training)
    return paths


def draw_instances(image: np.ndarray, instances: Instances, names: Sequence[str]) -> np.ndarray:
    """Return the RGB `image` (H, W, 3), enlarged where small, with boxes, masks, names and scores in percent."""
    scale = max(1.0, MIN_SIDE_PX / min(image.shape[:2]))
    canvas: np.ndarray = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    keep = np.flatnonzero(instances.scores.numpy() >= MIN_SCORE)
    if not len(keep) and len(instances):
        keep = np.array([int(instances.scores.argmax())])
    for index in keep:
        category = int(instances.pred_classes[index])
        colour = PALETTE[category % len(PALETTE)]
        if instances.has("pred_masks"):
            mask = instances.pred_masks[index].numpy().astype(np.uint8)
            shape = cv2.resize(mask, canvas.shape[1::-1], interpolation=cv2.INTER_NEAREST).astype(bool)
            canvas[shape] = (0.5 * canvas[shape] + 0.5 * np.array(colour)).astype(np.uint8)
        left, top, right, bottom = (instances.pred_boxes.tensor[index].numpy() * scale).round().astype(int).tolist()
        cv2.rectangle(canvas, (left, top), (right, bottom), colour, 2)
        label = f"{names[category]} {100 * float(instances.scores[index]):.0f}"
        cv2.putText(canvas, label, (left + 3, max(top - 4, 12)), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 255), 3)
        cv2.putText(canvas, label, (left + 3, max(top - 4, 12)), cv2.FONT_HERSHEY_SIMPLEX, 0.5, colour, 1, cv2.LINE_AA)
    return canvas
