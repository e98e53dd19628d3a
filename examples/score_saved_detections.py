"""Score saved detections without Detectron2: `python examples/score_saved_detections.py data runs/mine cat dog`.

RUN/voc_det/<class>.txt holds VOC's lines "image score xmin ymin xmax ymax"; RUN/coco_instances_results.json holds
COCO's results.
"""

import sys
from pathlib import Path

from transfer.metrics.coco_ap import evaluate_coco
from transfer.metrics.voc_files import evaluate_voc


def main(data: Path, run: Path, classes: list[str]) -> dict[str, float]:
    """Return the AP of both evaluations in percent."""
    voc = evaluate_voc(data / "VOC2007", "test", run / "voc_det", classes)
    coco = evaluate_coco(data / "coco/annotations/instances_val2017.json", run / "coco_instances_results.json", "bbox")
    print("VOC ", voc["metrics"], voc["per_class"])
    print("COCO", coco.metrics(), coco.per_class())
    return {"voc": voc["metrics"]["AP"], "coco": coco.metrics()["AP"]}


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
