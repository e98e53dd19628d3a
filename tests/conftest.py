"""Patches what Detectron2 v0.6 needs before a test imports it; leaves its tests out where it is not installed."""

from transfer import detectron2_compat

if detectron2_compat.is_installed():
    detectron2_compat.prepare()
    collect_ignore_glob: list[str] = []
else:
    collect_ignore_glob = [
        "transfer/detection/*",
        "transfer/metrics/test_voc_metric.py",
        "tools/benchmarks/*",
        "tools/test_draw_gallery.py",
    ]
