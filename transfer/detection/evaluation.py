"""Evaluate a detector: PreciseBN, then the metrics, then the metrics of the saved file as a check."""

import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from detectron2.evaluation import inference_on_dataset
from detectron2.modeling import build_model
from detectron2.utils import comm
from detectron2.utils.events import EventStorage

from pretrain.runtime import distributed
from pretrain.runtime.stopping import StopFlag, YieldRequested
from pretrain.runtime.storage import make_file_name
from transfer.detection.checkpoint import DetectorCheckpointer
from transfer.detection.data.training_stream import PRECISE_BN_STREAM, build_train_loader
from transfer.detection.evaluators import build_evaluator
from transfer.detection.precise_bn import share_statistics, update_statistics
from transfer.detection.reevaluation import build_test_loader, compare_detections
from transfer.detection.rle_inference import RleInference
from transfer.metrics.bootstrap import MetricDraws, write_draws

logger = logging.getLogger(__name__)

EVALUATION_FOLDER = "evaluation"
"""Subfolder of a run with the detections that its metrics are computed from."""
CPU_TOLERANCE = 0.0
CUDA_TOLERANCE = 0.05
"""Allowed difference of a re-evaluation in percentage points; CUDA convolutions may round differently each time."""
ALARM_AP = {
    "voc-c4-24k@moco": ("AP", 35.0),
    "coco-c4-1x@moco": ("box/AP", 30.0),
    "coco-c4-2x@moco": ("box/AP", 36.6),
    "coco-fpn-1x@moco": ("box/AP", 33.0),
    "coco-fpn-2x@moco": ("box/AP", 37.7),
    "coco-fpn-1x@infomin": ("box/AP", 33.0),
    "coco-fpn-2x@infomin": ("box/AP", 37.7),
}
"""Below this AP the weights were probably not loaded. Random weights give 32.8 on VOC and 35.6 with C4 2x (OpenSelfSup,
docs/MODEL_ZOO.md), 26.4 with C4 1x, 31.0 and 36.7 with FPN 1x and 2x (MoCo, arXiv 1911.05722, table 5); InfoMin's heads
add about 1 AP to MoCo's."""


class StoppableLoader:
    """Iterate over a loader until a stop is requested; the trained weights are saved before each evaluation."""

    def __init__(self, loader: Any, stop: StopFlag) -> None:
        self.loader, self.stop = loader, stop

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        """Yield the batches; raise YieldRequested on a stop on a single rank (several ranks must finish together)."""
        for batch in self.loader:
            if self.stop.is_set and distributed.world_size() == 1:
                raise YieldRequested("during the evaluation; the trained weights are in checkpoints/")
            yield batch


def make_statistics_precise(cfg: Any, model: Any, stop: StopFlag) -> int:
    """Set equal batch norm statistics on all ranks, with PreciseBN if enabled; return the number of updated norms."""
    count = 0
    if cfg.TEST.PRECISE_BN.ENABLED:
        model.train()
        loader = StoppableLoader(build_train_loader(cfg, seed=cfg.SEED, stream=PRECISE_BN_STREAM), stop)
        with EventStorage(0):  # Detectron2's heads log sample counts to one
            count = update_statistics(getattr(model, "module", model), loader, cfg.TEST.PRECISE_BN.NUM_ITER)
        logger.info("PreciseBN: %d norms from %d batches on each rank", count, cfg.TEST.PRECISE_BN.NUM_ITER)
    share_statistics(model)
    return count


def evaluate(
    cfg: Any, model: Any, out: Path, stop: StopFlag, *, draws_folder: Path | None = None, images: int = 0
) -> tuple[dict[str, float], dict[str, Any]]:
    """Return (metrics in percent, details per data set) on the main rank, empty dicts on others; all ranks call it.

    With several test sets, metric names are prefixed with "<name>/". With `draws_folder`, bootstrap draws of the test
    sets are written there as bootstrap.json, and the details hold AP by size and error types. With `images`, only that
    many images of each set are evaluated; the others count as images without detections.
    """
    draws: dict[str, MetricDraws] = {}
    metrics: dict[str, float] = {}
    details: dict[str, Any] = {}
    plain = getattr(model, "module", model)
    inference = RleInference(plain) if cfg.MODEL.MASK_ON else plain
    for name in cfg.DATASETS.TEST:
        loader = StoppableLoader(build_test_loader(cfg, name, images), stop)
        evaluator: Any = build_evaluator(cfg, name, out / make_file_name(name))
        found = inference_on_dataset(inference, loader, evaluator)
        prefix = f"{name}/" if len(cfg.DATASETS.TEST) > 1 else ""
        metrics |= {f"{prefix}{key}": value for key, value in found.items()}
        details[name] = evaluator.details
        if draws_folder is not None:
            findings = evaluator.examine()
            draws |= {f"{prefix}{key}": value for key, value in findings.draws.items()}
            details[name] = {**evaluator.details, **findings.details()}
    if draws_folder is not None and comm.is_main_process():
        write_draws(draws_folder, draws)
    return metrics, details


def check_saved(
    cfg: Any, weights: Path, out: Path, stop: StopFlag, logged: dict[str, float]
) -> tuple[dict[str, float], str]:
    """Load the saved detector into a new model and evaluate it; return the metrics and a warning, or "".

    On a CPU with RUN.REEVALUATE_IMAGES, only that many images of each set are evaluated: their detections must equal
    those of the run, so the returned metrics are `logged`.

    On CUDA a difference is only recorded: convolutions may round differently when repeated, and the training must not
    be lost.

    Raises:
        ValueError: the metrics differ from `logged` on a CPU, or the tensors in the file are not the model's.

    """
    model = build_model(cfg)
    checkpointer = DetectorCheckpointer(model, save_to_disk=False, save_dir="")
    content = checkpointer._load_file(str(weights))["model"]
    if content.keys() != model.state_dict().keys():
        raise ValueError(
            f"{weights}: tensor names differ from the model's: {content.keys() ^ model.state_dict().keys()}"
        )
    model.load_state_dict(content)
    sample = cfg.RUN.REEVALUATE_IMAGES if cfg.MODEL.DEVICE == "cpu" else 0
    again, _ = evaluate(cfg, model, out, stop, images=sample)
    if sample and comm.is_main_process():
        compare_detections(cfg, out.parent / EVALUATION_FOLDER, out, sample)
        return dict(logged), ""
    return again, judge_reevaluation(logged, again, cfg.MODEL.DEVICE) if comm.is_main_process() else ""


def judge_reevaluation(logged: dict[str, float], again: dict[str, float], device: str) -> str:
    """Return a warning if the metrics differ on CUDA, else ""; raise ValueError if they differ on a CPU."""
    cpu = torch.device(device).type == "cpu"
    warning = compare_metrics(logged, again, CPU_TOLERANCE if cpu else CUDA_TOLERANCE)
    if warning and cpu:
        raise ValueError(f"{warning}; no result is written, because it cannot be reproduced")
    if warning:
        logger.warning(warning)
    return warning


def compare_metrics(logged: dict[str, float], again: dict[str, float], tolerance: float) -> str:
    """Return a sentence if a re-evaluated metric differs by more than `tolerance` percentage points, else ""."""
    off = {
        name: (value, again.get(name))
        for name, value in logged.items()
        if name not in again
        or math.isnan(value) != math.isnan(again[name])
        or (not math.isnan(value) and abs(value - again[name]) > tolerance)
    }
    if not off and logged.keys() == again.keys():
        return ""
    return (
        "the re-evaluation of the saved model differs from the logged metrics by more than "
        f"{tolerance:g} points (logged, again): {off or (sorted(logged), sorted(again))}"
    )


def find_alarm(protocol: str, metrics: dict[str, float], *, whole: bool) -> str:
    """Return a warning if a full schedule (`whole`) ends at an AP that random weights reach, else ""."""
    metric, floor = ALARM_AP.get(protocol, ("", 0.0))
    if not whole or not metric or metrics.get(metric, floor) >= floor:
        return ""
    return (
        f"{metric} is {metrics[metric]:.1f}, below {floor}: random weights reach this on the full schedule of "
        f"{protocol}, so the backbone was probably not loaded or not trained; check the manifest of the weights"
    )
