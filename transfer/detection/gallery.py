"""Draw detections: a model's on a few test images, or those saved by several runs beside the ground truth."""

import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog, build_detection_test_loader
from detectron2.data.detection_utils import read_image
from detectron2.structures import Boxes, Instances
from detectron2.utils.visualizer import Visualizer
from PIL import Image, ImageDraw, ImageFont

from pretrain.runtime.storage import make_file_name, open_whole
from transfer.detection.evaluators import COCO_RESULTS_NAME, VOC_DET_FOLDER
from transfer.metrics.coco_ap import read_coco_json
from transfer.metrics.voc_files import read_det_files

MIN_SCORE = 0.3
"""`draw_detections` omits detections with a lower score, except the highest-scoring one of an image."""
MIN_SIDE_PX = 384
"""`draw_detections` enlarges smaller images to this shorter side, to keep labels readable."""
PALETTE = ((66, 133, 244), (219, 68, 55), (15, 157, 88), (244, 160, 0), (171, 71, 188), (0, 172, 193))
"""RGB colours of the classes, repeated in turn."""
TRUTH_TITLE = "ground truth"
HEADING_PIXELS = 26
GAP_PIXELS = 6

Detection = dict[str, Any]
"""{"category": index, "score": 0 … 1, "box": [x1, y1, x2, y2] in pixels, "mask": RLE if available}."""


def draw_detections(cfg: Any, model: Any, out: Path) -> list[Path]:
    """Run `model` on the first RUN.DRAW_IMAGES images of the first test set; return the paths of OUT/<image id>.png."""
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
    """Return the RGB `image` (H, W, 3), enlarged if small, with boxes, masks, class names and scores in percent."""
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


def draw_gallery(
    path: str | Path,
    dataset_name: str,
    runs: Mapping[str, str | Path],
    *,
    images: int = 6,
    threshold: float = 0.5,
    width: int = 360,
) -> Path:
    """Write a PNG with one row per image: a column for the ground truth, then one per run.

    Args:
        path: output file.
        dataset_name: a registered data set in VOC or COCO format.
        runs: {backbone: folder with its saved VOC det files or COCO results JSON}.
        images: number of rows, evenly spaced over the images with ground truth, so that galleries show the same images.
        threshold: minimum score of drawn detections.
        width: of a column, in pixels.

    Raises:
        ValueError: `runs` is empty, or a folder holds no saved detections.

    """
    if not runs:
        raise ValueError("a gallery needs at least one NAME=FOLDER of a finished run")
    records = choose_records(DatasetCatalog.get(dataset_name), images)
    found = {name: read_detections(folder, dataset_name) for name, folder in runs.items()}
    rows = []
    for record in records:
        picture = read_image(record["file_name"], "RGB")
        cells = [_draw(picture, dataset_name, width, truth=record)]
        for detections in found.values():
            kept = [entry for entry in detections.get(record["image_id"], []) if entry["score"] >= threshold]
            cells.append(_draw(picture, dataset_name, width, detections=kept))
        rows.append(cells)
    sheet = _compose(rows, [TRUTH_TITLE, *(f"{name} (score {threshold:g} or more)" for name in runs)], width)
    encoded = io.BytesIO()
    sheet.save(encoded, format="PNG")
    with open_whole(path) as stream:
        stream.write(encoded.getvalue())
    return Path(path)


def choose_records(records: Sequence[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """Return `count` evenly spaced records among those with annotations, or all if there are fewer."""
    annotated = [record for record in records if record["annotations"]]
    places = np.linspace(0, len(annotated) - 1, min(count, len(annotated))).round().astype(int)
    return [annotated[place] for place in places]


def read_detections(folder: str | Path, dataset_name: str) -> dict[Any, list[Detection]]:
    """Return {image id: detections in image pixels} saved by an evaluator in a run's folder.

    Raises:
        ValueError: the folder holds no saved detections.

    """
    metadata, place_name = MetadataCatalog.get(dataset_name), make_file_name(dataset_name)
    # A run has one folder per test set; accept the folder of the evaluation or of one test set as well.
    places = (Path(folder) / "evaluation" / place_name, Path(folder) / place_name)
    place = next((place for place in places if place.is_dir()), Path(folder))
    results, det_files = place / COCO_RESULTS_NAME, place / VOC_DET_FOLDER
    if results.is_file():
        return _read_coco_results(results, metadata.get("thing_dataset_id_to_contiguous_id") or {})
    if det_files.is_dir():
        names = [str(record["image_id"]) for record in DatasetCatalog.get(dataset_name)]
        return _read_voc_detections(det_files, names, list(metadata.thing_classes))
    raise ValueError(
        f"{folder}: no saved detections ({COCO_RESULTS_NAME} or {VOC_DET_FOLDER}/); pass the folder of an evaluated run"
    )


def _read_coco_results(path: Path, contiguous: Mapping[int, int]) -> dict[Any, list[Detection]]:
    found: dict[Any, list[Detection]] = defaultdict(list)
    for result in read_coco_json(path):
        x, y, width, height = result["bbox"]
        detection = {
            "category": contiguous.get(result["category_id"], result["category_id"]),
            "score": result["score"],
            "box": [x, y, x + width, y + height],
        }
        if "segmentation" in result:
            detection["mask"] = result["segmentation"]
        found[result["image_id"]].append(detection)
    return found


def _read_voc_detections(folder: Path, names: Sequence[str], class_names: Sequence[str]) -> dict[Any, list[Detection]]:
    found: dict[Any, list[Detection]] = defaultdict(list)
    saved = read_det_files(folder, names, class_names)
    columns = zip(saved.image, saved.category, saved.scores, saved.boxes - [1, 1, 0, 0], strict=True)
    for image, category, score, box in columns:
        found[names[image]].append({"category": int(category), "score": float(score), "box": box.tolist()})
    return found


def _draw(
    picture: np.ndarray[Any, np.dtype[np.uint8]],
    dataset_name: str,
    width: int,
    *,
    truth: dict[str, Any] | None = None,
    detections: Sequence[Detection] = (),
) -> Image.Image:
    """Return one cell, `width` pixels wide: the image with its ground truth or with detections."""
    height_pixels, width_pixels = picture.shape[:2]
    pen = Visualizer(picture, MetadataCatalog.get(dataset_name), scale=width / width_pixels)
    if truth is not None:
        drawn = pen.draw_dataset_dict(truth)
    else:
        drawn = pen.draw_instance_predictions(_as_instances(detections, (height_pixels, width_pixels)))
    return Image.fromarray(drawn.get_image())


def _as_instances(detections: Sequence[Detection], size: tuple[int, int]) -> Instances:
    instances = Instances(size)
    instances.pred_boxes = Boxes(torch.tensor([entry["box"] for entry in detections]).reshape(-1, 4))
    instances.scores = torch.tensor([entry["score"] for entry in detections])
    instances.pred_classes = torch.tensor([entry["category"] for entry in detections], dtype=torch.int64)
    if detections and all("mask" in entry for entry in detections):
        instances.pred_masks = [entry["mask"] for entry in detections]
    return instances


def _compose(rows: Sequence[Sequence[Image.Image]], titles: Sequence[str], width: int) -> Image.Image:
    """Return a white sheet with one title per column above the rows."""
    heights = [max(cell.height for cell in cells) for cells in rows]
    total = HEADING_PIXELS + sum(heights) + GAP_PIXELS * len(rows)
    sheet = Image.new("RGB", ((width + GAP_PIXELS) * len(titles), total), "white")
    pen = ImageDraw.Draw(sheet)
    for column, title in enumerate(titles):
        pen.text(((width + GAP_PIXELS) * column, 4), title, fill="black", font=ImageFont.load_default(size=15))
    top = HEADING_PIXELS
    for cells, height in zip(rows, heights, strict=True):
        for column, cell in enumerate(cells):
            sheet.paste(cell, ((width + GAP_PIXELS) * column, top))
        top += height + GAP_PIXELS
    return sheet
