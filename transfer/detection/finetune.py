"""Fine-tune a detector on a backbone under a named protocol: train, run PreciseBN, evaluate, verify the saved file.

Each rank trains on its share of a batch; only the main rank writes. A killed run resumes from its newest valid
checkpoint and equals the uninterrupted run, because data order, augmentation and sampling depend on (seed, step) only.
"""

import dataclasses
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from detectron2.modeling import build_model
from detectron2.solver import build_lr_scheduler, build_optimizer
from detectron2.utils import comm

import transfer.detection.heads  # noqa: F401  registers Res5ROIHeadsExtraNorm
from pretrain.runtime import distributed
from pretrain.runtime.progress import Heartbeat
from pretrain.runtime.stopping import StopFlag, YieldRequested
from pretrain.runtime.storage import read_json, write_json, write_text
from transfer.detection.checkpoint import FINAL_NAME, DetectorCheckpointer
from transfer.detection.config import find_pixel_format, flatten_config, read_detector_config
from transfer.detection.data.data_readiness import check_data_sets
from transfer.detection.data.datasets import register_datasets
from transfer.detection.data.own_data import base_of
from transfer.detection.data.own_sets import settle_own_data
from transfer.detection.data.training_stream import build_train_loader
from transfer.detection.evaluation import EVALUATION_FOLDER, check_saved, evaluate, find_alarm, make_statistics_precise
from transfer.detection.gallery import draw_detections
from transfer.detection.loaded_weights import check_loaded, check_manifest
from transfer.detection.protocols import (
    FREE_KEYS,
    FULL_SIZE,
    describe_deviations,
    differ_from_full_size,
    lint,
    match_depth,
)
from transfer.detection.trainer import EvaluationHook, RunHook, StopTraining, make_hooks, make_trainer
from transfer.metrics.bootstrap import read_draws, summarise_draws
from transfer.results.run_result import RunResult, read_finished, write_result
from transfer.weights.manifest import Manifest, read_manifest

CONFIG_NAME, IDENTITY_NAME = "config.yaml", "weights.json"
"""Files in which a run records its config and weights at its start, so that no other run resumes in its folder."""
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class FinetuneRun:
    """Backbone, weights and output folder of one fine-tuning run."""

    backbone: str
    weights: Path
    out: Path
    note: str = ""
    """How batch_rule changed the protocol for fewer GPUs; empty: unchanged."""


def finetune(cfg: Any, run: FinetuneRun, stop: StopFlag) -> RunResult | None:
    """Run or resume the fine-tuning; return its result on the main rank, None on others.

    Raises:
        ValueError: wrong config, weights or data, or the loss became infinite or NaN.
        YieldRequested: a stop was requested; the checkpoint is saved.

    """
    manifest = read_manifest(run.weights)
    cfg = match_depth(settle_own_data(cfg), manifest.depth)
    identity = {"backbone": run.backbone, "protocol": cfg.PROTOCOL, "weights_sha256": manifest.output["sha256"]}
    check_manifest(manifest, cfg)
    deviations = lint(cfg)
    with distributed.process_group(torch.device(cfg.MODEL.DEVICE)):
        if finished := distributed.on_main(lambda: _find_finished(cfg, run.out, identity)):
            return finished
        register_datasets(cfg)
        check_data_sets(cfg, run.out)
        distributed.on_main(lambda: _write_identity(cfg, run.out, identity))
        if run.note and comm.is_main_process():
            logger.info("Protocol rewritten for fewer GPUs: %s", run.note)
        if deviations and comm.is_main_process():
            logger.warning(
                "The config deviates from the protocol %s:\n%s", cfg.PROTOCOL, describe_deviations(deviations)
            )
        cfg = _realise(cfg)
        model, seconds = _train(cfg, run, stop)
        result = _conclude(cfg, run, stop, model, manifest)
    if result is None:
        return None
    facts = {"deviations": [dataclasses.asdict(entry) for entry in deviations], "seconds": seconds()}
    result = dataclasses.replace(result, **facts)
    write_result(run.out, result)
    return result


def load_into_detector(cfg: Any, model: Any, weights: Path) -> None:
    """Load a converted file into `model` with Detectron2's name matching and verify the loaded tensors.

    Raises:
        ValueError: as `check_loaded`.

    """
    DetectorCheckpointer(model, "", save_to_disk=False).load(str(weights), checkpointables=[])
    check_loaded(model, weights, base_of(cfg), masks=bool(cfg.MODEL.MASK_ON))


def build_trainer(cfg: Any, model: Any, *, batches_done: int) -> tuple[Any, Any]:
    """Return (trainer, learning rate scheduler); the training data start after `batches_done` batches of this rank."""
    optimizer = build_optimizer(cfg, model)
    loader = build_train_loader(cfg, seed=cfg.SEED, batches_done=batches_done)
    return make_trainer(cfg, distributed.average_gradients_of(model), loader, optimizer), build_lr_scheduler(
        cfg, optimizer
    )


def _train(cfg: Any, run: FinetuneRun, stop: StopFlag) -> tuple[Any, Any]:
    torch.manual_seed(cfg.SEED)
    model = build_model(cfg)
    if cfg.MODEL.CHANNELS_LAST:
        model = model.to(memory_format=torch.channels_last)
    checkpointer = DetectorCheckpointer(model, run.out / "checkpoints", keep=cfg.RUN.KEEP_CHECKPOINTS)
    content = _read_checkpoint(checkpointer)
    step, earlier_s = content.get("step", 0), content.get("seconds", 0.0)
    if not content:
        load_into_detector(cfg, model, run.weights)
    trainer, scheduler = build_trainer(cfg, model, batches_done=step * cfg.SOLVER.ACCUMULATE)
    heartbeat = Heartbeat(run.out, cfg.SOLVER.MAX_ITER, first_step=step)
    hook = RunHook(cfg, checkpointer, stop, heartbeat, seconds=earlier_s)

    def evaluate_at(done: int) -> dict[str, float]:
        make_statistics_precise(cfg, model, stop)
        metrics, _ = evaluate(cfg, model, run.out / "evaluations" / f"{done:08d}", stop)
        if comm.is_main_process():
            draw_detections(cfg, model, run.out / "detections" / f"{done:08d}")
        return metrics

    trainer.register_hooks(
        make_hooks(cfg, run.out, scheduler, step, hook, EvaluationHook(cfg.TEST.EVAL_PERIOD, evaluate_at))
    )
    if content:
        model.load_state_dict(content["model"])
        trainer.load_state_dict(content["trainer"])
        logger.info("resuming after step %d of %d", step, cfg.SOLVER.MAX_ITER)
    checkpointer.add_checkpointable("trainer", trainer)
    if step < cfg.SOLVER.MAX_ITER:
        _run(trainer, step, cfg.SOLVER.MAX_ITER)
    return model, hook.seconds


def _run(trainer: Any, step: int, last: int) -> None:
    try:
        trainer.train(step, last)
    except StopTraining:
        raise YieldRequested(f"after step {trainer.iter + 1} of {last}") from None
    except FloatingPointError as error:
        raise ValueError(
            f"the loss became infinite or NaN at step {trainer.iter + 1}: {' '.join(str(error).split())}. Lower "
            "SOLVER.BASE_LR in proportion to the batch, or raise SOLVER.WARMUP_ITERS"
        ) from error


def _read_checkpoint(checkpointer: DetectorCheckpointer) -> dict[str, Any]:
    path = distributed.on_main(checkpointer.get_checkpoint_file)
    return checkpointer._load_file(path) if path else {}


def _conclude(cfg: Any, run: FinetuneRun, stop: StopFlag, model: Any, manifest: Manifest) -> RunResult | None:
    out, main = run.out, comm.is_main_process()
    heartbeat = Heartbeat(out, cfg.SOLVER.MAX_ITER, first_step=cfg.SOLVER.MAX_ITER)

    def report(phase: str) -> None:
        if main:
            heartbeat.beat(cfg.SOLVER.MAX_ITER, phase, now=True)

    report("precise_bn")
    norms = make_statistics_precise(cfg, model, stop)
    final = out / f"{FINAL_NAME}.pth"
    digest = DetectorCheckpointer(model, out).save_weights(final)
    comm.synchronize()
    report("evaluate")
    began = time.monotonic()
    metrics, details = evaluate(cfg, model, out / EVALUATION_FOLDER, stop, draws_folder=out)
    evaluation_s = time.monotonic() - began
    if main:
        draw_detections(cfg, model, out / "detections")
    report("evaluate_again")
    again, difference = check_saved(cfg, final, out / "evaluation_again", stop, metrics)
    report("done")
    if not main:
        return None
    whole = not lint(cfg)
    facts = {
        "details": details,
        "bootstrap": summarise_draws(read_draws(out)),
        "reevaluated": again,
        "reevaluation_warning": difference,
        "alarm": find_alarm(cfg.PROTOCOL, metrics, whole=whole),
        "precise_bn_norms": norms,
        "model_sha256": digest,
        "evaluation_s": round(evaluation_s, 1),
    }
    return _make_result(cfg, run, manifest, metrics, facts)


def _make_result(
    cfg: Any, run: FinetuneRun, manifest: Manifest, metrics: dict[str, float], facts: dict[str, Any]
) -> RunResult:
    if facts["alarm"]:
        logger.warning(facts["alarm"])
    return RunResult(
        backbone=run.backbone,
        protocol=cfg.PROTOCOL,
        seed=cfg.SEED,
        metrics=metrics,
        weights_sha256=manifest.output["sha256"],
        details={
            **facts,
            "steps": cfg.SOLVER.MAX_ITER,
            "processes": distributed.world_size(),
            "rewrite": run.note,
            "based_on": cfg.BASED_ON,
            "input_unit": find_pixel_format(cfg),
            "cuts_down": FULL_SIZE.get(cfg.PROTOCOL, ""),
            "differs_from": [dataclasses.asdict(entry) for entry in differ_from_full_size(cfg.PROTOCOL)],
            "weights_source": dict(manifest.source),
            "config": flatten_config(cfg),
        },
    )


def _realise(cfg: Any) -> Any:
    """Return `cfg` with SyncBN replaced where unsupported: BN on one process, naiveSyncBN on several CPU processes."""
    cfg = cfg.clone()
    alone = distributed.world_size() == 1
    for node in (cfg.MODEL.RESNETS, cfg.MODEL.FPN, cfg.MODEL.ROI_BOX_HEAD, cfg.MODEL.ROI_MASK_HEAD):
        if node.NORM in ("SyncBN", "naiveSyncBN") and (alone or cfg.MODEL.DEVICE == "cpu"):
            node.NORM = "BN" if alone else "naiveSyncBN"
    return cfg


def _find_finished(cfg: Any, out: Path, identity: Mapping[str, Any]) -> RunResult | None:
    """Return the result of a finished run, else None; raise ValueError if OUT holds another run, finished or not."""
    finished = read_finished(out, identity)
    _check_identity(cfg, out, identity)
    if finished:
        logger.info("%s: already finished", out)
    return finished


def _check_identity(cfg: Any, out: Path, identity: Mapping[str, Any]) -> None:
    """Compare with the config and weights of an earlier attempt in OUT; raise ValueError if they differ."""
    config, weights = out / CONFIG_NAME, out / IDENTITY_NAME
    before = flatten_config(read_detector_config(config)) if config.exists() else {}
    now = flatten_config(cfg) if before else {}
    pairs = {
        key: (before.get(key), now.get(key))
        for key in sorted(before.keys() | now.keys())
        if not key.startswith(tuple(set(FREE_KEYS) - {"SEED"}))
    }
    if weights.exists():
        pairs |= {key: (value, identity.get(key)) for key, value in read_json(weights).items()}
    if changed := [f"{key}: was {old!r}, is {new!r}" for key, (old, new) in pairs.items() if old != new]:
        raise ValueError(
            f"{out}: holds a run with another config or other weights; choose a new out= or delete the folder. "
            f"{'; '.join(changed)}"
        )


def _write_identity(cfg: Any, out: Path, identity: Mapping[str, Any]) -> None:
    write_text(out / CONFIG_NAME, cfg.dump())
    write_json(out / IDENTITY_NAME, dict(identity))
