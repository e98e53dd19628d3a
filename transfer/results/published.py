"""Published results to compare a reproduction with, each with its source and degree of confirmation."""

from dataclasses import dataclass, field
from typing import Literal

CONFIRMED: Literal["confirmed"] = "confirmed"
"""The number is in public code or an official README."""
AS_REPORTED: Literal["as reported"] = "as reported"
"""The paper's number as widely quoted; a table must show this label beside it."""

MOCO = "facebookresearch/moco, detection/README.md"
MOCO_LINEAR = "facebookresearch/moco, README.md"
MOCHI = "Kalantidis et al., Hard Negative Mixing for Contrastive Learning, NeurIPS 2020 (arXiv 2010.01028)"
OPENSELFSUP = "open-mmlab/OpenSelfSup, docs/MODEL_ZOO.md"
INFOMIN = "HobbitLong/PyContrast, pycontrast/detection/README.md"
PIXPRO = "zdaxie/PixPro, README.md"
INFOMIN_AND_PIXPRO = f"{INFOMIN}; {PIXPRO}"
SYNCO = "SynCo (arXiv 2410.02401), README of its code"
SYNCO_LINEAR = f"{SYNCO}; the paper's third version says 67.9"
TUNED = "songweige/Contrastive-Learning-with-Non-Semantic-Negatives, README.md"


@dataclass(frozen=True, kw_only=True)
class PublishedRow:
    """One backbone's published numbers under one protocol."""

    protocol: str
    """Full name of the protocol; rows of different protocols are not comparable."""
    backbone: str
    epochs: int | None
    """Pretraining epochs; None for supervised and random initialisation."""
    metrics: dict[str, float]
    """Percent."""
    label: Literal["confirmed", "as reported"]
    source: str
    trials: int = 1
    stds: dict[str, float] = field(default_factory=dict)
    """Metric → standard deviation over the trials in percent points, if the source gives it."""


def published_rows(protocol: str) -> list[PublishedRow]:
    """Return the published rows of one protocol; [] if there are none, as for the digits."""
    return [row for row in ROWS if row.protocol == protocol]


def _voc(backbone: str, epochs: int | None, values: tuple[float, float, float], source: str) -> PublishedRow:
    trials = 5 if source == MOCO else 1
    return PublishedRow(
        protocol="voc-c4-24k@moco",
        backbone=backbone,
        epochs=epochs,
        metrics=dict(zip(("AP50", "AP", "AP75"), values, strict=True)),
        label=AS_REPORTED if source == MOCHI else CONFIRMED,
        source=source,
        trials=trials,
        stds={"AP50": 0.2, "AP": 0.2, "AP75": 0.4} if source == MOCO else {},
    )


def _coco(protocol: str, backbone: str, epochs: int | None, values: tuple[float, float], source: str) -> PublishedRow:
    return PublishedRow(
        protocol=protocol,
        backbone=backbone,
        epochs=epochs,
        metrics=dict(zip(("box/AP", "mask/AP"), values, strict=True)),
        label=AS_REPORTED if source == MOCHI else CONFIRMED,
        source=source,
    )


def _linear(
    protocol: str, backbone: str, epochs: int | None, top1: float, source: str, *, trials: int = 1, std: float = 0.0
) -> PublishedRow:
    return PublishedRow(
        protocol=protocol,
        backbone=backbone,
        epochs=epochs,
        metrics={"top1": top1},
        label=AS_REPORTED if source == MOCHI else CONFIRMED,
        source=source,
        trials=trials,
        stds={"top1": std} if std else {},
    )


_MOCHI_TABLE: tuple[tuple[int, str, float, tuple[float, float, float]], ...] = (
    (100, "MoCo-v2 (their run)", 63.6, (80.8, 53.7, 59.1)),
    (100, "MoCHi (256,512,0)", 63.9, (81.1, 54.3, 60.2)),
    (100, "MoCHi (256,512,256)", 63.7, (81.3, 54.6, 60.7)),
    (100, "MoCHi (128,1024,512)", 63.4, (81.1, 54.7, 60.9)),
    (200, "MoCo-v2 (their run)", 67.9, (82.5, 56.8, 63.3)),
    (200, "MoCHi (1024,512,256)", 68.0, (82.3, 56.7, 63.8)),
    (200, "MoCHi (512,1024,512)", 67.6, (82.7, 57.1, 64.1)),
    (200, "MoCHi (256,512,0)", 67.7, (82.8, 57.3, 64.1)),
    (200, "MoCHi (256,512,256)", 67.6, (82.6, 57.2, 64.2)),
    (200, "MoCHi (256,2048,2048)", 67.0, (82.5, 57.1, 64.4)),
    (200, "MoCHi (128,1024,512)", 66.9, (82.7, 57.5, 64.4)),
    (200, "InfoMin Aug.", 70.1, (82.7, 57.6, 64.6)),
    (800, "MoCo-v2 (their run)", 69.0, (82.7, 56.8, 63.9)),
    (800, "MoCHi (128,1024,512)", 68.7, (83.3, 57.3, 64.2)),
)
"""epochs, method, ImageNet-1K linear top-1, VOC (AP50, AP, AP75)."""

_FPN_1X: tuple[tuple[str, int | None, tuple[float, float], str], ...] = (
    ("random init", None, (32.8, 29.9), INFOMIN_AND_PIXPRO),
    ("supervised ImageNet-1K", None, (39.7, 35.9), INFOMIN_AND_PIXPRO),
    ("InstDis", 200, (38.8, 35.2), INFOMIN),
    ("PIRL", 200, (38.6, 35.1), INFOMIN),
    ("MoCo v1", 200, (39.4, 35.6), INFOMIN_AND_PIXPRO),
    ("InfoMin Aug.", 200, (40.6, 36.7), INFOMIN_AND_PIXPRO),
    ("SimCLR", 1000, (39.8, 35.9), PIXPRO),
    ("MoCo v2", 800, (40.4, 36.4), PIXPRO),
    ("InfoMin Aug.", 800, (40.4, 36.6), PIXPRO),
    ("PixPro", 100, (40.8, 36.8), PIXPRO),
)
"""backbone, epochs, (box AP, mask AP) of Mask R-CNN R50-FPN, 1x, and source; PyContrast pretrains 200 epochs."""
_FPN_2X: tuple[tuple[str, int | None, tuple[float, float], str], ...] = (
    ("random init", None, (38.4, 34.7), INFOMIN),
    ("supervised ImageNet-1K", None, (41.6, 37.6), INFOMIN),
    ("InstDis", 200, (41.3, 37.3), INFOMIN),
    ("PIRL", 200, (41.2, 37.4), INFOMIN),
    ("MoCo v1", 200, (41.7, 37.5), INFOMIN),
    ("MoCo v2", 200, (41.7, 37.6), INFOMIN),
    ("InfoMin Aug.", 200, (42.5, 38.4), INFOMIN),
)

ROWS: tuple[PublishedRow, ...] = (
    _voc("supervised ImageNet-1K", None, (81.3, 53.5, 58.8), MOCO),
    _voc("MoCo v1", 200, (81.5, 55.9, 62.6), MOCO),
    _voc("MoCo v2", 200, (82.4, 57.0, 63.6), MOCO),
    _voc("MoCo v2", 800, (82.5, 57.4, 64.0), MOCO),
    _voc("random init", None, (59.0, 32.8, 31.6), OPENSELFSUP),
    _voc("random init (PixPro)", None, (60.2, 33.8, 33.1), PIXPRO),
    *(_voc(method, epochs, values, MOCHI) for epochs, method, _, values in _MOCHI_TABLE),
    _voc("SynCo", 200, (82.6, 57.2, 63.9), SYNCO),
    _voc("SynCo", 800, (82.8, 57.4, 64.0), SYNCO),
    _voc("SimCLR", 1000, (81.9, 56.3, 62.5), PIXPRO),
    _voc("MoCo v2 (PixPro)", 800, (82.7, 57.6, 64.4), PIXPRO),
    _voc("InfoMin Aug.", 800, (82.5, 57.5, 64.0), PIXPRO),
    _voc("PixPro", 100, (83.0, 58.8, 66.5), PIXPRO),
    _voc("PixPro", 400, (83.8, 60.2, 67.7), PIXPRO),
    _coco("coco-c4-1x@moco", "random init", None, (26.4, 29.3), PIXPRO),
    _coco("coco-c4-1x@moco", "supervised ImageNet-1K", None, (38.2, 33.3), INFOMIN_AND_PIXPRO),
    _coco("coco-c4-1x@moco", "MoCo v1", 200, (38.5, 33.6), INFOMIN_AND_PIXPRO),
    _coco("coco-c4-1x@moco", "SimCLR", 1000, (38.4, 33.6), PIXPRO),
    _coco("coco-c4-1x@moco", "MoCo v2", 800, (39.5, 34.5), PIXPRO),
    _coco("coco-c4-1x@moco", "InfoMin Aug.", 200, (39.0, 34.1), INFOMIN_AND_PIXPRO),
    _coco("coco-c4-1x@moco", "InfoMin Aug.", 800, (38.8, 33.8), PIXPRO),
    _coco("coco-c4-1x@moco", "PixPro", 100, (40.0, 34.8), PIXPRO),
    _coco("coco-c4-1x@moco", "PixPro", 400, (40.5, 35.3), PIXPRO),
    _coco("coco-c4-1x@moco", "MoCo-v2 (their run)", 100, (37.0, 32.7), MOCHI),
    _coco("coco-c4-1x@moco", "MoCHi (256,512,0)", 100, (37.5, 33.0), MOCHI),
    _coco("coco-c4-1x@moco", "MoCHi (128,1024,512)", 100, (37.8, 33.2), MOCHI),
    _coco("coco-c4-1x@moco", "MoCo-v2 (their run)", 200, (39.0, 34.2), MOCHI),
    _coco("coco-c4-1x@moco", "MoCHi (256,512,0)", 200, (39.2, 34.4), MOCHI),
    _coco("coco-c4-1x@moco", "MoCHi (128,1024,512)", 200, (39.2, 34.3), MOCHI),
    _coco("coco-c4-1x@moco", "MoCHi (512,1024,512)", 200, (39.4, 34.5), MOCHI),
    _coco("coco-c4-2x@moco", "random init", None, (35.6, 31.4), OPENSELFSUP),
    _coco("coco-c4-2x@moco", "supervised ImageNet-1K", None, (40.0, 34.7), OPENSELFSUP),
    _coco("coco-c4-2x@moco", "MoCo v1", 200, (40.9, 35.5), OPENSELFSUP),
    _coco("coco-c4-2x@moco", "MoCo v1 (PyContrast)", 200, (40.7, 35.6), INFOMIN),
    _coco("coco-c4-2x@moco", "MoCo v2", 200, (41.0, 35.6), OPENSELFSUP),
    _coco("coco-c4-2x@moco", "InfoMin Aug.", 200, (41.3, 36.0), INFOMIN),
    *(_coco("coco-fpn-1x@infomin", *row) for row in _FPN_1X),
    *(_coco("coco-fpn-2x@infomin", *row) for row in _FPN_2X),
    _linear("linear-in1k@moco", "MoCo v1", 200, 60.6, MOCO_LINEAR),
    _linear("linear-in1k@moco", "MoCo v2", 200, 67.5, MOCO_LINEAR, trials=5, std=0.1),
    _linear("linear-in1k@moco", "MoCo v2", 800, 71.1, MOCO_LINEAR),
    *(_linear("linear-in1k@moco", method, epochs, top1, MOCHI) for epochs, method, top1, _ in _MOCHI_TABLE),
    _linear("linear-in1k@moco", "SynCo", 200, 68.1, SYNCO_LINEAR),
    _linear("linear-in1k@moco", "SynCo", 800, 70.7, SYNCO),
    _linear("linear-in100@mochi", "MoCo v1", 200, 73.4, MOCHI),
    _linear("linear-in100@mochi", "MoCo-v2 (their run)", 200, 78.0, MOCHI, std=0.2),
    _linear("linear-in100@mochi", "MoCHi (1024,1024,128)", 200, 79.0, MOCHI, std=0.4),
    _linear("linear-in100@mochi", "MoCo-v2 with class oracle", 200, 81.8, MOCHI),
    _linear("linear-in100@mochi", "MoCHi (1024,1024,128) with class oracle", 200, 82.5, MOCHI),
    _linear("linear-in100@mochi", "supervised", None, 86.2, MOCHI),
    _linear(
        "linear-in100@mochi", "MoCo-v2 tuned (lr .8, batch 512, m .99, K 65536)", 200, 80.0, TUNED, trials=3, std=0.14
    ),
)
