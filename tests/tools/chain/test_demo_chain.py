"""The demo's chain at a tenth of its size: every kind of stage runs and the report has a row for each measurement."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pretrain.runtime.machine import PROJECT_ROOT
from pretrain.runtime.storage import read_json
from tools.chain.record.state import find_states, read_plan

MADE = (
    "imagenet_px=64,imagenet_train=240,imagenet_val=40,scene_min_px=64,scene_max_px=64,scene_max_digits=1,"
    "digit_min_px=28,digit_max_px=48,voc2007_trainval=20,voc2007_test=15,voc2012_trainval=10,coco_train=30,coco_val=15"
)
DETECTOR = "SOLVER.MAX_ITER=10,'SOLVER.STEPS=(8,)',TEST.PRECISE_BN.NUM_ITER=2,RUN.DRAW_IMAGES=1"
CLASSIFIER = "train_images=100,val_images=40"
BACKBONES = ("mochi", "supervised", "random")
TENTH = [
    f"data.make=[{MADE}]",
    *(f"backbones.{name}.seeds=[0]" for name in BACKBONES),
    "backbones.mochi.set=[run.epochs=2,run.analyse_every_epochs=0]",
    "backbones.supervised.set=[run.epochs=2]",
    *(f"protocols.{name}.set=[{DETECTOR}]" for name in ("voc", "coco")),
    f"protocols.linear.set=[{CLASSIFIER},batch_size=50,epochs=10]",
    f"protocols.knn.set=[{CLASSIFIER},k=5]",
    "budgets.min_free_gb=0.5",
]


@pytest.mark.slow
def test_a_tenth_of_the_demo_runs_to_its_report(tmp_path: Path) -> None:
    words = ["submit", str(PROJECT_ROOT / "configs" / "chains" / "digits.yaml"), *TENTH]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROJECT_ROOT)}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tools.chain", *words],
        cwd=tmp_path,  # what a submit remembers lies below its own folder's runs/
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    folder = tmp_path / "runs" / "digits"
    assert set(find_states(folder, read_plan(folder)[1]).values()) == {"done"}
    rows = read_json(folder / "report" / "summary.json")["rows"]
    assert {(row["backbone"].partition("@")[0], row["metric"]) for row in rows} >= {
        (name, metric) for name in BACKBONES for metric in ("AP", "box/AP", "mask/AP", "top1")
    }
    results = [read_json(path) for path in folder.glob("stages/*/metrics.json")]
    detectors = [result for result in results if "reevaluated" in result["details"]]
    assert len(detectors) == 2 * len(BACKBONES)
    assert all(result["details"]["reevaluated"] == result["metrics"] for result in detectors)
