"""Names of protocols and metrics in reports: a plain name, followed by the identifier."""

PLAIN_NAMES = {
    "voc-c4-24k@moco": "VOC detection, C4, 24k steps",
    "coco-c4-1x@moco": "COCO boxes and masks, C4, 1x schedule",
    "coco-c4-2x@moco": "COCO boxes and masks, C4, 2x schedule",
    "coco-fpn-1x@moco": "COCO boxes and masks, FPN, 1x schedule",
    "coco-fpn-2x@moco": "COCO boxes and masks, FPN, 2x schedule",
    "coco-fpn-1x@infomin": "COCO boxes and masks, FPN, 1x schedule (InfoMin's recipe)",
    "coco-fpn-2x@infomin": "COCO boxes and masks, FPN, 2x schedule (InfoMin's recipe)",
    "voc-c4-digits@moco": "Digits detection, C4, VOC metric",
    "coco-c4-digits@moco": "Digits boxes and masks, C4, COCO metric",
    "coco-fpn-digits@moco": "Digits boxes and masks, FPN, COCO metric",
    "coco-fpn-digits@infomin": "Digits boxes and masks, FPN, COCO metric (InfoMin's recipe)",
    "linear-in1k@moco": "Linear classification, ImageNet-1K",
    "linear-in100@mochi": "Linear classification, ImageNet-100",
    "linear-digits": "Linear classification, digits",
    "knn-in1k": "kNN classification, ImageNet-1K",
    "knn-digits": "kNN classification, digits",
}
METRICS = {"AP": "AP", "box/AP": "box AP", "mask/AP": "mask AP", "top1": "top-1 accuracy"}


def title_of(protocol: str, deviations: int) -> str:
    """Return the plain name, the identifier and, if there are any, the number of deviations."""
    plain = PLAIN_NAMES.get(protocol)
    title = f"{plain} ({protocol})" if plain else protocol
    return f"{title}, with {count_of(deviations, 'deviation')}" if deviations else title


def name_metric(metric: str) -> str:
    """Return a metric's plain name, or the identifier if it has none."""
    return METRICS.get(metric, metric)


def count_of(number: int, noun: str) -> str:
    """Return e.g. "1 run" or "2 runs"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
