import json
import logging
import re
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch

from pretrain.runtime.stopping import StopFlag, YieldRequested
from pretrain.runtime.storage import read_json, read_json_lines
from tests.making.detector_runs import CONFIGS, SHORT, SMALL_RESNET, command_of, make_backbone, make_small_digits, start
from tools.finetune_detector import main as finetune_detector
from transfer.detection.config import read_detector_config
from transfer.detection.finetune import FinetuneRun, finetune
from transfer.detection.reevaluation import compare_detections, read_detections
from transfer.metrics.bootstrap import read_draws

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("detectors")]

RUNS = {
    "voc_c4_digits.yaml": 50,
    "coco_c4_digits.yaml": 50,
    "coco_fpn_digits.yaml": 18,
    "coco_fpn_infomin_digits.yaml": 18,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_small_digits(tmp_path_factory.mktemp("digits") / "data")


@pytest.fixture(scope="module")
def backbones(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    folder = tmp_path_factory.mktemp("backbones")
    return {depth: make_backbone(folder, depth) for depth in (18, 50)}


def words_of(config: str, backbones: dict[int, Path], data: Path, out: Path, *more: str) -> list[str]:
    depth = RUNS[config]
    return command_of(config, backbones[depth], data, out, *(SMALL_RESNET if depth == 18 else []), *more)


def facts_of(out: Path) -> tuple[dict, str]:
    result = read_json(out / "metrics.json")
    return result["metrics"], result["details"]["model_sha256"]


@pytest.mark.parametrize("config", RUNS)
def test_run_resumed_from_a_checkpoint_equals_the_uninterrupted_run(
    config: str, backbones: dict[int, Path], data: Path, tmp_path: Path
) -> None:
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    assert finetune_detector(words_of(config, backbones, data, whole, "RUN.KEEP_CHECKPOINTS=9")) == 0
    result = read_json(whole / "metrics.json")
    assert result["details"]["reevaluated"] == result["metrics"]
    assert list((whole / "detections").glob("*.png"))
    draws = read_draws(whole)
    assert draws
    for name, entry in draws.items():
        assert entry.value == pytest.approx(result["metrics"][name], abs=1e-4)
        assert set(result["details"]["bootstrap"][name]) == {"low", "high", "draws", "images", "level"}
    assert [line["step"] for line in read_json_lines(whole / "metrics.jsonl")] == [1, 2, 3, 4]
    assert {entry["key"] for entry in result["deviations"]} >= {"SOLVER.MAX_ITER", "SOLVER.IMS_PER_BATCH"}
    shutil.copytree(whole, resumed)
    for name in ("metrics.json", "model_final.pth"):
        (resumed / name).unlink()
    for step in (3, 4):
        (resumed / "checkpoints" / f"checkpoint_{step:08d}.pth").unlink()
    assert finetune_detector(words_of(config, backbones, data, resumed, "RUN.KEEP_CHECKPOINTS=9")) == 0
    assert facts_of(resumed) == facts_of(whole)
    assert (resumed / "bootstrap.json").read_bytes() == (whole / "bootstrap.json").read_bytes()
    assert [line["step"] for line in read_json_lines(resumed / "metrics.jsonl")] == [1, 2, 3, 4]


@pytest.mark.parametrize("config", ["voc_c4_digits.yaml", "coco_fpn_digits.yaml"])
def test_some_images_prove_the_saved_file_and_changed_detections_are_refused(
    config: str, backbones: dict[int, Path], data: Path, tmp_path: Path
) -> None:
    words = words_of(
        config, backbones, data, tmp_path, "RUN.REEVALUATE_IMAGES=2", "MODEL.ROI_HEADS.SCORE_THRESH_TEST=0.0"
    )
    assert finetune_detector(words) == 0
    result = read_json(tmp_path / "metrics.json")
    assert result["details"]["reevaluated"] == result["metrics"]
    cfg = read_detector_config(CONFIGS / config)
    name = cfg.DATASETS.TEST[0]
    again, first = (read_detections(tmp_path / part / name) for part in ("evaluation_again", "evaluation"))
    assert len(again) == 2
    assert again.items() <= first.items()
    compare_detections(cfg, tmp_path / "evaluation", tmp_path / "evaluation_again", 2)
    for path in (tmp_path / "evaluation" / name).rglob("*.*"):
        path.write_text(re.sub(r"\b0\.(\d)", r"0.1\1", path.read_text()))
    with pytest.raises(ValueError, match="differ from those that the run evaluated on 2 of 2 images"):
        compare_detections(cfg, tmp_path / "evaluation", tmp_path / "evaluation_again", 2)


@pytest.mark.parametrize(
    ("config", "number", "expected"),
    [*((config, signal.SIGKILL, -9) for config in RUNS), ("coco_fpn_digits.yaml", signal.SIGTERM, 75)],
)
def test_killed_or_stopped_run_ends_as_if_nothing_had_happened(
    config: str, number: signal.Signals, expected: int, backbones: dict[int, Path], data: Path, tmp_path: Path
) -> None:
    more = ("SOLVER.MAX_ITER=8", "DATALOADER.NUM_WORKERS=1")
    words = words_of(config, backbones, data, tmp_path / "killed", *more)
    process = start(words)
    while not list((tmp_path / "killed").glob("checkpoints/*.sha256")) and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(number)
    output = process.communicate()[0]
    assert process.returncode == expected, output
    assert not (tmp_path / "killed" / "metrics.json").exists()
    assert finetune_detector(words) == 0
    assert finetune_detector(words_of(config, backbones, data, tmp_path / "whole", *more)) == 0
    assert facts_of(tmp_path / "killed") == facts_of(tmp_path / "whole")
    result = read_json(tmp_path / "killed" / "metrics.json")
    assert result["details"]["reevaluated"] == result["metrics"]


def test_run_stopped_in_an_evaluation_begins_with_it_again_and_loses_no_step(
    backbones: dict[int, Path], data: Path, tmp_path: Path
) -> None:
    config, more = "coco_fpn_digits.yaml", ("TEST.EVAL_PERIOD=2", "SOLVER.CHECKPOINT_PERIOD=99")
    stopped, whole = tmp_path / "stopped", tmp_path / "whole"
    cfg = read_detector_config(CONFIGS / config, [*SHORT, *SMALL_RESNET, *more])
    cfg.SEED, cfg.DATASETS.ROOT, cfg.OUTPUT_DIR = 3, str(data), str(stopped)
    stop = StopFlag()
    run = FinetuneRun(backbone="test", weights=backbones[18], out=stopped)

    class StopInEvaluation(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "Start inference" in record.getMessage():
                stop.ask("the test")

    handler = StopInEvaluation()
    detectron2_log = logging.getLogger("detectron2.evaluation.evaluator")
    detectron2_log.addHandler(handler)
    detectron2_log.setLevel(logging.INFO)
    try:
        with pytest.raises(YieldRequested, match="during the evaluation"):
            finetune(cfg, run, stop)
    finally:
        detectron2_log.removeHandler(handler)
    assert [path.name for path in (stopped / "checkpoints").glob("*.pth")] == ["checkpoint_00000002.pth"]
    assert finetune_detector(words_of(config, backbones, data, stopped, *more)) == 0
    assert finetune_detector(words_of(config, backbones, data, whole, *more)) == 0
    assert facts_of(stopped) == facts_of(whole)
    for out in (stopped, whole):
        assert list((out / "detections" / "00000002").glob("*.png"))
        assert any("box/AP" in line for line in read_json_lines(out / "metrics.jsonl"))
        assert list((out / "tensorboard").glob("events*"))


def test_two_processes_agree_and_leave_one_result(backbones: dict[int, Path], data: Path, tmp_path: Path) -> None:
    words = words_of("coco_fpn_infomin_digits.yaml", backbones, data, tmp_path / "two", "SOLVER.MAX_ITER=2")
    port = str(20000 + hash(str(tmp_path)) % 10000)
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    ranks = [start(words, RANK=str(rank), LOCAL_RANK=str(rank), **group) for rank in range(2)]
    outputs = [rank.communicate(timeout=400)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], outputs
    result = read_json(tmp_path / "two" / "metrics.json")
    assert result["details"]["processes"] == 2
    assert result["details"]["reevaluated"] == result["metrics"]  # each rank evaluated its images with its own norms
    state = torch.load(tmp_path / "two" / "model_final.pth", weights_only=True)["model"]
    assert all(torch.isfinite(tensor).all() for tensor in state.values())


def test_nan_loss_is_a_sentence(backbones: dict[int, Path], data: Path, tmp_path: Path) -> None:
    words = words_of("coco_fpn_digits.yaml", backbones, data, tmp_path / "nan", "SOLVER.BASE_LR=1e20")
    with pytest.raises(ValueError, match="infinite or NaN at step"):
        finetune_detector([*words, "SOLVER.WARMUP_ITERS=0"])


def test_accumulated_step_is_recorded_and_finished_run_returns_at_once(
    backbones: dict[int, Path], data: Path, tmp_path: Path
) -> None:
    more = (
        "SOLVER.MAX_ITER=1",
        "batch_rule=accumulate",
        "divisor=2",
        "TEST.PRECISE_BN.NUM_ITER=1",
        "MODEL.CHANNELS_LAST=True",
    )
    words = words_of("coco_fpn_digits.yaml", backbones, data, tmp_path, *more)
    assert finetune_detector(words) == 0
    result = read_json(tmp_path / "metrics.json")
    assert {"key": "SOLVER.ACCUMULATE", "expected": 1, "got": 2} in result["deviations"]
    assert result["details"]["rewrite"] == "batch_rule=accumulate divisor=2: SOLVER.ACCUMULATE 1 → 2"
    assert result["details"]["config"]["MODEL.CHANNELS_LAST"] is True
    began = time.monotonic()
    assert finetune_detector(words) == 0
    assert time.monotonic() - began < 5
    with pytest.raises(ValueError, match="choose a new out="):
        finetune_detector([word.replace("backbone=test", "backbone=other") for word in words])
    with pytest.raises(ValueError, match=r"SOLVER.BASE_LR: was .*, is 0.5"):
        finetune_detector([*words, "SOLVER.BASE_LR=0.5"])
    other = str(make_backbone(tmp_path, RUNS["coco_fpn_digits.yaml"], seed=1))
    with pytest.raises(ValueError, match=r"weights_sha256 was .*, is"):
        finetune_detector([words[0], other, *words[2:]])
    (tmp_path / "metrics.json").rename(tmp_path / "done.json")  # simulates a run stopped before its end
    with pytest.raises(ValueError, match=r"holds a run with another config or other weights.*weights_sha256: was"):
        finetune_detector([words[0], other, *words[2:]])
    (tmp_path / "done.json").rename(tmp_path / "metrics.json")
    assert json.loads((tmp_path / "progress.json").read_text())["phase"] == "done"
