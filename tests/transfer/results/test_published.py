"""Published rows have the right protocol, numbers and sources."""

from collections import Counter

import pytest

from transfer.results.published import ROWS, published_rows

READ = {
    "coco-c4-2x@moco": [
        ("MoCo v1", 200, (40.9, 35.5), "OpenSelfSup"),
        ("MoCo v1 (PyContrast)", 200, (40.7, 35.6), "PyContrast"),
        ("InfoMin Aug.", 200, (41.3, 36.0), "PyContrast"),
    ],
    "coco-c4-1x@moco": [
        ("random init", None, (26.4, 29.3), "PixPro"),
        ("supervised ImageNet-1K", None, (38.2, 33.3), "PyContrast"),
        ("MoCo v1", 200, (38.5, 33.6), "PixPro"),
        ("MoCo v2", 800, (39.5, 34.5), "PixPro"),
        ("PixPro", 400, (40.5, 35.3), "PixPro"),
    ],
    "coco-fpn-1x@infomin": [
        ("random init", None, (32.8, 29.9), "PyContrast"),
        ("supervised ImageNet-1K", None, (39.7, 35.9), "PyContrast"),
        ("MoCo v2", 800, (40.4, 36.4), "PixPro"),
    ],
    "coco-fpn-2x@infomin": [
        ("random init", None, (38.4, 34.7), "PyContrast"),
        ("MoCo v2", 200, (41.7, 37.6), "PyContrast"),
        ("InfoMin Aug.", 200, (42.5, 38.4), "PyContrast"),
    ],
    "voc-c4-24k@moco": [
        ("random init (PixPro)", None, (60.2, 33.8, 33.1), "PixPro"),
        ("MoCo v2 (PixPro)", 800, (82.7, 57.6, 64.4), "PixPro"),
        ("PixPro", 400, (83.8, 60.2, 67.7), "PixPro"),
    ],
}


@pytest.mark.parametrize("protocol", READ)
def test_rows_hold_what_their_sources_say(protocol: str) -> None:
    rows = {(row.backbone, row.epochs): row for row in published_rows(protocol)}
    for backbone, epochs, values, source in READ[protocol]:
        row = rows[backbone, epochs]
        assert tuple(row.metrics.values()) == values
        assert source in row.source
        assert row.label == "confirmed"


def test_no_row_is_there_twice() -> None:
    counts = Counter((row.protocol, row.backbone, row.epochs) for row in ROWS)
    assert {key for key, count in counts.items() if count > 1} == set()


def test_coco_rows_name_no_readme_that_lacks_them() -> None:
    """facebookresearch/moco's detection README has a table for VOC only."""
    assert not [row for row in ROWS if row.protocol.startswith("coco") and "facebookresearch/moco" in row.source]


def test_tuned_moco_v2_is_the_mean_of_three_runs() -> None:
    (row,) = [row for row in published_rows("linear-in100@mochi") if "tuned" in row.backbone]
    assert (row.metrics["top1"], row.stds["top1"], row.trials) == (80.0, 0.14, 3)


def test_percentages_are_plausible_and_voc_metrics_are_in_order() -> None:
    for row in ROWS:
        assert all(20 < value < 100 for value in row.metrics.values())
        if row.protocol.startswith("voc"):
            assert row.metrics["AP50"] > row.metrics["AP75"]
