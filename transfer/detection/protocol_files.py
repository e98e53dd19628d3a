"""Map each named protocol to the file in configs/transfer that defines it."""

from pretrain.runtime.machine import PROJECT_ROOT

CONFIG_FOLDER = PROJECT_ROOT / "configs" / "transfer"

PROTOCOL_FILES = {
    "voc-c4-24k@moco": "voc_c4_24k_moco.yaml",
    "coco-c4-1x@moco": "coco_c4_1x_moco.yaml",
    "coco-c4-2x@moco": "coco_c4_2x_moco.yaml",
    "coco-fpn-1x@moco": "coco_fpn_1x_moco.yaml",
    "coco-fpn-2x@moco": "coco_fpn_2x_moco.yaml",
    "coco-fpn-1x@infomin": "coco_fpn_1x_infomin.yaml",
    "coco-fpn-2x@infomin": "coco_fpn_2x_infomin.yaml",
    "voc-c4-10pct@moco": "voc_c4_10pct_moco.yaml",
    "coco-fpn-1pct@moco": "coco_fpn_1pct_moco.yaml",
    "coco-fpn-5pct@moco": "coco_fpn_5pct_moco.yaml",
    "coco-fpn-10pct@moco": "coco_fpn_10pct_moco.yaml",
    "voc-c4-digits@moco": "voc_c4_digits.yaml",
    "coco-c4-digits@moco": "coco_c4_digits.yaml",
    "coco-fpn-digits@moco": "coco_fpn_digits.yaml",
    "coco-fpn-digits@infomin": "coco_fpn_infomin_digits.yaml",
}
