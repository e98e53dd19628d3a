"""Validate COCO annotations and results and normalise them before an evaluation engine reads them.

The engines differ on loose input (ids from 0, missing fields, degenerate polygons, NaN), so one file could have two
APs. In the normalised form, every record has exactly the fields that the evaluation uses:
1. image ids and category ids become 1, 2, … in the order of the sorted ids, annotation ids 1, 2, … in the file's order;
2. a missing `iscrowd` becomes 0; a missing `area` becomes the mask's area or, without a mask, the box's;
3. masks are compressed RLE, converted by pycocotools; polygons of fewer than three points are removed;
4. for mask AP the results have no box, so their sizes are those of the masks, as in Detectron2's COCOEvaluator.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask as rle_codec

from transfer.metrics.coco_masks import FAR, encode_segmentation, find_broken_rles
from transfer.metrics.record_mistakes import Mistakes, is_number, lie_within

FAR_PX = 1_000_000
"""Largest coordinate in pixels for images without width and height."""
LISTS = ("images", "annotations", "categories")
Record = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class CocoTruth:
    """Annotations in the normalised form, and the mapping from the file's ids to their numbers."""

    content: Record
    """{"images", "annotations", "categories"}; do not modify the records."""
    image_numbers: Mapping[Any, int]
    """The file's image id → number 1, 2, …."""
    category_numbers: Mapping[Any, int]
    """The file's category id → number 1, 2, …."""

    @property
    def image_ids(self) -> tuple[Any, ...]:
        """The file's image ids in the order of their numbers 1, 2, …."""
        return tuple(self.image_numbers)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Category names in the order of their numbers 1, 2, …."""
        return tuple(str(category["name"]) for category in self.content["categories"])


def normalise_truth(truth: Any, *, masks: bool) -> CocoTruth:
    """Return annotations in the normalised form, for box AP or, if `masks`, for mask AP.

    Annotations of unlisted images are ignored, as in Detectron2 and pycocotools.

    Raises:
        ValueError: the evaluation would be wrong or impossible; one line per kind of mistake, with its count.

    """
    missing = [key for key in LISTS if not isinstance(truth, Mapping) or not isinstance(truth.get(key), list | tuple)]
    if missing:
        raise ValueError(f"the COCO annotations lack {', '.join(sorted(missing))}; expected lists under these keys")
    mistakes = Mistakes()
    images = _read_images(truth["images"], mistakes, masks)
    categories = _read_categories(truth["categories"], mistakes)
    _check_ids("annotation ids", [_get(entry, "id") for entry in truth["annotations"]], mistakes)
    mistakes.refuse("the COCO annotations")
    image_numbers = _number(images)
    category_numbers = _number(categories)
    annotations = []
    for position, entry in enumerate(truth["annotations"], 1):
        image = images.get(_key(entry.get("image_id")))
        if image is not None:
            record = _read_annotation(entry, image, category_numbers, mistakes, masks)
            annotations.append({**record, "id": position, "image_id": image_numbers[entry["image_id"]]})
    _check_rles(annotations, "annotation", mistakes)
    mistakes.refuse("the COCO annotations")
    content = {
        "images": [{**images[key], "id": number} for key, number in image_numbers.items()],
        "categories": [{"id": number, "name": categories[key]} for key, number in category_numbers.items()],
        "annotations": annotations,
    }
    return CocoTruth(content=content, image_numbers=image_numbers, category_numbers=category_numbers)


def normalise_results(results: Any, truth: CocoTruth, *, masks: bool) -> list[Record]:
    """Return results in the normalised form with the numbers of `truth`; only masks if `masks`, else only boxes.

    Raises:
        ValueError: a result lacks a field that the evaluation needs, or does not belong to the annotations.

    """
    sequence = isinstance(results, Sequence) and not isinstance(results, str)
    if not sequence or any(not isinstance(result, Mapping) for result in results):
        raise ValueError("the results are not a list of objects; expected COCO's results format")
    _check_results_fit(results, truth, "segmentation" if masks else "bbox")
    mistakes = Mistakes()
    sizes = {image["id"]: image for image in truth.content["images"]}
    images = [sizes[truth.image_numbers[result["image_id"]]] for result in results]
    for number in _find_odd_scores(results):
        example = f"result {number} (image {results[number]['image_id']}): {results[number].get('score')!r}"
        mistakes.add("results without a finite score", example)
    records = [
        {
            "image_id": image["id"],
            "category_id": truth.category_numbers[result["category_id"]],
            "score": result.get("score"),
        }
        for image, result in zip(images, results, strict=True)
    ]
    if masks:
        for number, (image, result) in enumerate(zip(images, results, strict=True)):
            where = f"result {number} (image {result['image_id']})"
            rle = encode_segmentation(result["segmentation"], _size(image), where, mistakes)
            records[number]["segmentation"] = rle
        _check_rles(records, "result", mistakes)
    else:
        for number in _find_odd_boxes([result["bbox"] for result in results], images):
            where = f"result {number} (image {results[number]['image_id']})"
            _check_box(results[number]["bbox"], images[number], where, mistakes)
        for record, result in zip(records, results, strict=True):
            record["bbox"] = result["bbox"]
    mistakes.refuse("the results")
    return records


def _find_odd_scores(results: Sequence[Any]) -> list[int]:
    """Return the indices of results without a finite score."""
    values = _as_numbers([result.get("score") for result in results], ())
    if values is not None:
        return list(np.flatnonzero(~np.isfinite(values)).tolist())
    return [number for number, result in enumerate(results) if not is_number(result.get("score"))]


def _find_odd_boxes(boxes: Sequence[Any], images: Sequence[Record]) -> Sequence[int]:
    """Return the indices of boxes to be checked one by one: all of them if any is not a list of four numbers."""
    values = _as_numbers(boxes, (4,))
    if values is None:
        return range(len(boxes))
    limits = np.array([_limit(image) for image in images])
    sound = (np.abs(values) <= limits[:, None]).all(axis=1) & (values[:, 2:] >= 0).all(axis=1)
    return list(np.flatnonzero(~sound).tolist())


def _as_numbers(values: Sequence[Any], shape: tuple[int, ...]) -> Any:
    """Return numbers as an array (n, *shape); None if any entry is not a number or has another shape."""
    try:
        array = np.array(values)
    except ValueError:  # lists of different lengths
        return None
    sound = array.shape == (len(values), *shape) and array.dtype.kind in "iuf"
    return array if sound else None


def _check_rles(records: Sequence[Record], what: str, mistakes: Mistakes) -> None:
    masks = [(number, record["segmentation"]) for number, record in enumerate(records) if record.get("segmentation")]
    for index in find_broken_rles([mask for _, mask in masks]):
        mistakes.add("RLE masks that cannot be decoded, or do not fill their image", f"{what} number {masks[index][0]}")


def _read_images(entries: Iterable[Any], mistakes: Mistakes, masks: bool) -> dict[Any, Record]:
    keys = [_get(entry, "id") for entry in entries]
    _check_ids("image ids", keys, mistakes)
    if len({isinstance(key, str) for key in keys}) > 1:
        mistakes.add("kinds of image ids (numbers and strings) that cannot be sorted", str(keys[0]))
    images = {}
    for key, entry in zip(keys, entries, strict=True):
        sides = {side: _get(entry, side) for side in ("height", "width")}
        sound = all(isinstance(side, int) and not isinstance(side, bool) and side > 0 for side in sides.values())
        if masks and not sound:
            mistakes.add("images without a width and height in whole pixels", f"image {key}")
        if isinstance(key, int | str):
            images[key] = sides if sound else {}
    return images


def _read_categories(entries: Iterable[Any], mistakes: Mistakes) -> dict[Any, str]:
    keys = [_get(entry, "id") for entry in entries]
    _check_ids("category ids", keys, mistakes)
    if any(isinstance(key, str) for key in keys):
        mistakes.add("category ids that are strings (expected integers)", str(keys[0]))
    names = [_get(entry, "name") for entry in entries]
    if any(not isinstance(name, str) for name in names):
        mistakes.add("categories without a name", str(keys[0] if keys else None))
    return dict(zip((key for key in keys if isinstance(key, int | str)), map(str, names), strict=False))


def _check_ids(what: str, keys: Sequence[Any], mistakes: Mistakes) -> None:
    bad = [key for key in keys if not isinstance(key, int | str) or isinstance(key, bool)]
    for key in bad:
        mistakes.add(f"{what} that are neither integers nor strings", repr(key))
    for key, count in Counter(key for key in keys if isinstance(key, int | str)).items():
        if count > 1:
            mistakes.add(f"{what} that occur more than once (make them unique)", str(key))


def _read_annotation(
    entry: Record, image: Record, categories: Mapping[Any, int], mistakes: Mistakes, masks: bool
) -> Record:
    where = f"annotation {entry['id']}"
    crowd, area, box = entry.get("iscrowd", 0), entry.get("area"), entry.get("bbox")
    category = _key(entry.get("category_id"))
    if category not in categories:
        mistakes.add("annotations of a category that is not listed", f"{where}: {category}")
    if crowd not in (0, 1):
        mistakes.add("annotations whose iscrowd is not 0 or 1", f"{where}: {crowd!r}")
    sound = _check_box(box, image, where, mistakes)
    record: Record = {"category_id": categories.get(category, 0), "iscrowd": int(crowd in (1, True))}
    record["bbox"] = [float(value) for value in box or ()] if sound else []
    segmentation = entry.get("segmentation")
    rle = None
    if masks and not segmentation:
        mistakes.add(
            "annotations without a segmentation: mask AP needs a segmentation in every annotation (evaluate boxes "
            "only with MODEL.MASK_ON False, or use annotations with masks)",
            where,
        )
    elif masks:
        rle = record["segmentation"] = encode_segmentation(segmentation, _size(image), where, mistakes)
    if area is None:
        rle = rle or _try_segmentation(segmentation, image)
        area = float(rle_codec.area(rle)) if rle else math.prod(record["bbox"][2:])
    if not is_number(area) or area < 0:
        mistakes.add("annotations whose area is not a number of square pixels", f"{where}: {area!r}")
    return {**record, "area": area}


def _try_segmentation(segmentation: Any, image: Record) -> Record | None:
    """Return the mask of an annotation of which only the box is evaluated; None if it has no valid mask."""
    return (
        encode_segmentation(segmentation, _size(image), "", Mistakes())
        if segmentation and image.get("height")
        else None
    )


def _check_box(box: Any, image: Record, where: str, mistakes: Mistakes) -> bool:
    if not isinstance(box, list | tuple) or len(box) != 4 or not all(is_number(value) for value in box):
        mistakes.add("boxes that are not four finite numbers [x, y, width, height]", f"{where}: {box!r}")
        return False
    if not lie_within(box, _limit(image)) or min(box[2:]) < 0:
        mistakes.add(
            f"boxes with a negative side, or beyond {FAR} image sides (expected [x, y, width, height] in pixels)",
            f"{where}: {list(box)}",
        )
        return False
    return True


def _limit(image: Record) -> float:
    return FAR * max(image["height"], image["width"]) if image.get("height") else FAR_PX


def _check_results_fit(results: Sequence[Any], truth: CocoTruth, shape: str) -> None:
    strays = {_key(result.get("image_id")) for result in results} - truth.image_numbers.keys()
    if strays:
        raise ValueError(
            f"{len(strays)} image ids of the results are not in the annotations, e.g. {min(strays, key=str)}; "
            "evaluate against the annotations of the split that was detected"
        )
    unknown = {_key(result.get("category_id")) for result in results} - truth.category_numbers.keys()
    if unknown:
        raise ValueError(
            f"the results hold category ids {sorted(unknown, key=str)[:5]} that the annotations lack "
            f"(they have {list(truth.category_numbers)[:5]} …); use the annotations' own ids, not contiguous ones"
        )
    bare = sum(1 for result in results if not result.get(shape))
    if bare:
        hint = "expected bbox: [x, y, width, height]" if shape == "bbox" else "was MODEL.MASK_ON False?"
        kind = "box AP needs boxes" if shape == "bbox" else "mask AP needs masks"
        raise ValueError(f"{kind}, {bare} of {len(results)} results have none: {hint}")


def _key(value: Any) -> Any:
    return value if isinstance(value, int | str) and not isinstance(value, bool) else repr(value)


def _number(entries: Mapping[Any, Any]) -> dict[Any, int]:
    return {key: number for number, key in enumerate(sorted(entries), 1)}


def _size(image: Record) -> tuple[int, int]:
    return image["height"], image["width"]


def _get(entry: Any, key: str) -> Any:
    return entry.get(key) if isinstance(entry, Mapping) else None
