"""The table of the named protocols in docs/protocols.md, from the files that define them."""

import re
from collections.abc import Iterator
from pathlib import Path

from pretrain.runtime.machine import PROJECT_ROOT
from transfer.results.published import published_rows

FOLDER = PROJECT_ROOT / "configs" / "transfer"
MEANINGS = {
    "voc-c4-24k@moco": "Faster R-CNN R50-C4, extra norm after res5; VOC07+12 trainval → VOC07 test; 24,000 iterations",
    "voc-c4-10pct@moco": "the same on 10 % of the images, a tenth of the iterations",
    "coco-c4-1x@moco": "Mask R-CNN R50-C4, the one of MoCHi's paper; 90,000 iterations",
    "coco-c4-2x@moco": "the same, 180,000 iterations",
    "coco-fpn-1x@moco": "Mask R-CNN R50-FPN, SyncBN in backbone and FPN, standard heads; 90,000 iterations",
    "coco-fpn-2x@moco": "the same, 180,000 iterations",
    "coco-fpn-1x@infomin": "FPN with a 4conv1fc box head and normed heads: not comparable with the rows above",
    "coco-fpn-2x@infomin": "the same, twice as long",
    "coco-fpn-1pct@moco": "coco-fpn-1x@moco on 1 % of the images, a tenth of the iterations",
    "coco-fpn-5pct@moco": "the same on 5 %",
    "coco-fpn-10pct@moco": "the same on 10 %",
    "linear-in1k@moco": "linear classifier on frozen features, ImageNet-1K, learning rate 30 at batch 256",
    "linear-in1k-1pct@moco": "the same trained on 1 % of the labels",
    "linear-in1k-10pct@moco": "the same trained on 10 % of the labels",
    "linear-in100@mochi": "linear classifier on ImageNet-100, as reported in MoCHi's paper",
    "knn-in1k": "weighted nearest neighbours, k = 200, T = 0.07 (Wu et al., CVPR 2018)",
}
"""Protocol → what it is; those of the digits go by the one that they cut down."""
LATEST = "_msra"
"""Ending of a file that repeats a protocol for weights of another input."""


def render_protocols() -> str:
    """Return the named protocols with their config and the number of published rows, full size first."""
    found = sorted(_list_protocols(), key=lambda pair: ("digits" in pair[0], list(MEANINGS).index(pair[0])))
    lines = ["| protocol | config in `configs/transfer/` | what it is | published rows |", "|---|---|---|---|"]
    for name, path in found:
        lines.append(f"| `{name}` | `{path.name}` | {MEANINGS[name]} | {len(published_rows(name)) or '–'} |")
    return "\n".join(lines) + "\n"


def _list_protocols() -> Iterator[tuple[str, Path]]:
    for path in sorted(FOLDER.glob("*.yaml")):
        named = re.search(r"^protocol: *(\S+)", path.read_text(), re.MULTILINE | re.IGNORECASE)
        if named and "digits" not in path.stem and not path.stem.endswith(LATEST):
            yield named[1], path
