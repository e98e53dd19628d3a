"""The pretraining loop, from config to encoder.pt.

Order of one step (facebookresearch/moco, moco/builder.py and main_moco.py): update the key encoder, encode queries and
keys, compute the loss against the current queue, update the query encoder, and only then enqueue the new keys.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pretrain.config import PretrainConfig
from pretrain.config_checks import check_config
from pretrain.continuation import check_same_recipe
from pretrain.encoder import recompute_in_backward
from pretrain.input.loader import ViewLoader, build_loader, refuse_unlabelled
from pretrain.input.views import finish_on_device
from pretrain.loss import ContrastiveOutput
from pretrain.methods import Method, build_method
from pretrain.moco import MoCo
from pretrain.monitoring.collapse import CollapseMonitor
from pretrain.monitoring.epoch_checks import EpochChecks
from pretrain.monitoring.metrics_log import MetricsLog
from pretrain.optimization.optimizers import build_optimizer
from pretrain.optimization.rates import find_doubts
from pretrain.optimization.schedule import build_schedule, find_rate
from pretrain.runtime import distributed
from pretrain.runtime.checkpoint import CheckpointFolder, from_moco_state, read_content, to_moco_state, write_encoder
from pretrain.runtime.device import choose_device, choose_precision
from pretrain.runtime.profiling import profile_steps
from pretrain.runtime.randomness import make_generators
from pretrain.runtime.settings import as_dict
from pretrain.runtime.stopping import StopFlag, YieldRequested

logger = logging.getLogger(__name__)

ENCODER = "encoder.pt"
"""File that a finished run writes for the converter."""


@dataclass
class Run:
    """State of a run; `step` counts the completed steps."""

    config: PretrainConfig
    device: torch.device
    model: Method
    parallel: nn.Module
    """`model`, wrapped so that the backward pass averages gradients if there are several ranks."""
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    checkpoints: CheckpointFolder
    step: int = 0
    steps_per_epoch: int = 0
    saved_step: int = -1
    saved_time: float = 0.0


def train(config: PretrainConfig, stop: StopFlag) -> Path:
    """Run or resume the pretraining that `config` describes; return the path of encoder.pt.

    Raises:
        SettingsError: invalid config; the message lists all mistakes.
        YieldRequested: `stop` was set; a checkpoint is saved, run again to resume.
        FloatingPointError: the loss is NaN or infinite; the message names the last good checkpoint.

    """
    device = choose_device(config.engine)
    with distributed.process_group(device):
        check_config(config, distributed.world_size())
        encoder = Path(config.run.out) / ENCODER
        if config.run.resume and distributed.on_main(encoder.is_file):
            check_same_recipe(read_content(encoder)["config"], config, encoder)
            logger.info("%s: already exists, nothing to do", encoder)
            return encoder
        run = prepare(config, device)
        if config.run.epochs:
            train_epochs(run, stop)
        run.checkpoints.wait()
        if distributed.is_main():
            write_encoder(encoder, run.model, describe(run))
        distributed.barrier()
        return encoder


def prepare(config: PretrainConfig, device: torch.device) -> Run:
    """Return a run at step 0, or restored from its newest intact checkpoint."""
    if config.engine.threads:
        torch.set_num_threads(config.engine.threads)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = config.engine.tf32
    torch.backends.cudnn.benchmark = device.type == "cuda"
    torch.manual_seed(config.run.seed)  # same on all ranks: equal initial weights and queue
    layout = torch.channels_last if config.engine.channels_last else torch.contiguous_format
    model = build_method(config).to(device, memory_format=layout)  # type: ignore[call-overload]
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = build_optimizer(weights, config.optimizer, device)
    scaler = torch.amp.GradScaler(device.type, enabled=choose_precision(config.engine, device) == torch.float16)
    folder = CheckpointFolder(Path(config.run.out) / "checkpoints", writes=distributed.is_main())
    run = Run(config, device, model, model, optimizer, scaler, folder)
    content = folder.load_newest() if config.run.resume else None
    if not distributed.all_equal(-1 if content is None else int(content["step"])):
        raise ValueError(
            f"{folder.folder}: the ranks found different checkpoints, so the run cannot resume; make sure that all "
            "hosts share this folder, wait until each sees the same files, then run again"
        )
    if content is not None:
        restore(run, content)
    if config.engine.gradient_checkpointing:
        recompute_in_backward(model.encoder_q)
    if config.engine.compile:
        model.encoder_q.compile()
    if isinstance(model, MoCo) and config.model.shuffle_bn and distributed.world_size() * config.model.bn_groups == 1:
        logger.warning(
            "one process and model.bn_groups=1: keys cannot be shuffled, so queries and keys share batch statistics, "
            "which reveal the positive; set model.bn_groups (8 at batch 256 corresponds to MoCo's 8 GPUs)"
        )
    for doubt in find_doubts(config) if distributed.is_main() else []:
        logger.warning("%s", doubt)
    run.parallel = distributed.average_gradients_of(model)
    return run


def train_epochs(run: Run, stop: StopFlag) -> None:
    """Run the remaining epochs; save a checkpoint after each, whenever one is due, and on a stop request."""
    config = run.config
    loader = open_loader(config, run.device)
    run.steps_per_epoch = steps_per_epoch = loader.sampler.steps_per_epoch
    steps = steps_per_epoch * config.run.epochs
    schedule = build_schedule(config.optimizer, config.run.batch_size)
    checks = EpochChecks(config, run.device)
    health = CollapseMonitor(config, run.model, steps=steps, steps_per_epoch=steps_per_epoch)
    broken = torch.zeros((), dtype=torch.bool, device=run.device)  # a loss was NaN or infinite; rarely read
    run.saved_time = time.monotonic()
    profiled = config.run.profile_steps if distributed.is_main() else 0
    with (
        MetricsLog(config, first_step=run.step, steps=steps, steps_per_epoch=steps_per_epoch) as log,
        profile_steps(Path(config.run.out) / "profile", profiled, run.device) as note_profiled,
    ):
        for epoch in range(run.step // steps_per_epoch, config.run.epochs):
            mixing_on = config.mixing.is_on_in(epoch, config.run.epochs)
            for batch in take_batches(loader, epoch, run.step % steps_per_epoch, log):
                rate = find_rate(schedule, config.optimizer, step=run.step, steps=steps, epochs=config.run.epochs)
                output = take_step(run, batch, rate, mixing_on=mixing_on)
                broken |= ~output.loss.detach().isfinite()
                run.step += 1
                note_profiled()
                stopping, save_due = distributed.any_rank(stop.is_set, is_save_due(run))
                due = log.is_due(run.step)
                if stopping or save_due or due:
                    refuse_broken_loss(run, broken)
                log.note_step(run.step, output, rate, health.look(run.step, float(output.loss)) if due else {})
                if stopping:
                    stop_here(run, stop)
                if save_due:
                    save(run)
            refuse_broken_loss(run, broken)
            log.write(run.step, checks.after_epoch(run.model, epoch))
            every = config.run.milestone_every_epochs
            save(run, milestone=bool(every) and (epoch + 1) % every == 0)


def open_loader(config: PretrainConfig, device: torch.device) -> ViewLoader:
    """Return the loader of this rank's share of every global batch."""
    loader = build_loader(
        config.data,
        global_batch=config.run.batch_size,
        seed=config.run.seed,
        rank=distributed.rank(),
        world_size=distributed.world_size(),
        device=device,
    )
    refuse_unlabelled(config, loader.source)
    return loader


def take_batches(loader: ViewLoader, epoch: int, start: int, log: MetricsLog) -> Iterator[dict[str, Tensor]]:
    """Yield the batches of `epoch` from step `start` on, and record the time spent waiting for each."""
    loader.sampler.set_position(epoch, start)
    batches = iter(loader)
    while True:
        began = time.perf_counter()
        batch = next(batches, None)
        log.note_wait(time.perf_counter() - began)
        if batch is None:
            return
        log.note_broken(int(batch["broken"]))
        yield batch


def take_step(run: Run, batch: dict[str, Tensor], rate: float, *, mixing_on: bool) -> ContrastiveOutput:
    """Take one optimizer step on this rank's part of the global batch; return its loss and hits."""
    settings, model = run.config.engine, run.model
    for group in run.optimizer.param_groups:
        group["lr"] = rate
    model.train()
    model.update_key_encoder()
    im_q, im_k = finish_on_device(batch, run.device, channels_last=settings.channels_last)
    index, label = batch["index"].to(run.device), batch["label"].to(run.device)
    size = settings.max_batch_per_rank or len(im_q)
    precision = choose_precision(settings, run.device)
    autocast = torch.autocast(run.device.type, precision) if precision != torch.float32 else nullcontext()
    outputs, keys = [], []
    slices = list(zip(*(torch.split(tensor, size) for tensor in (im_q, im_k, index, label)), strict=True))
    for part, inputs in enumerate(slices):
        share = len(inputs[0]) / len(im_q)
        generators = make_generators(run.config.run.seed, run.step, run.device, part)
        with distributed.hold_gradients(run.parallel, hold=part + 1 < len(slices)):
            with autocast:
                output, new_keys = run.parallel(*inputs, generators=generators, mixing_on=mixing_on)
            run.scaler.scale(output.loss * share).backward()
        outputs.append((output, share))
        keys.append((new_keys, *map(distributed.gather, inputs[2:])))
    run.scaler.step(run.optimizer)
    run.scaler.update()
    run.optimizer.zero_grad(set_to_none=True)
    if isinstance(model, MoCo):
        for entry in keys:
            model.queue.enqueue(*entry)
    return join_outputs(outputs)


def join_outputs(outputs: list[tuple[ContrastiveOutput, float]]) -> ContrastiveOutput:
    """Combine the outputs of the accumulation slices, each weighted by its fraction of the batch."""
    loss = torch.stack([output.loss.detach() * share for output, share in outputs]).sum()
    hits = torch.cat([output.hits for output, _ in outputs])
    return ContrastiveOutput(loss, hits, torch.cat([output.hits_with_mixes for output, _ in outputs]))


def is_save_due(run: Run) -> bool:
    """Return whether a checkpoint is due within an epoch, by step count or by this rank's clock."""
    every = run.config.run.checkpoint_steps
    late = time.monotonic() - run.saved_time > 60 * run.config.run.checkpoint_minutes
    return run.step != run.saved_step and (late or (every > 0 and run.step % every == 0))


def save(run: Run, *, milestone: bool = False) -> None:
    """Save the complete state of the run; the file is written in the background."""
    if isinstance(run.model, MoCo) and not distributed.all_equal(run.model.queue.digest()):
        raise RuntimeError("the queues of the ranks differ, so this run is invalid; resume from the last checkpoint")
    if distributed.is_main():
        run.checkpoints.save(run.step, describe(run) | {"optimizer": run.optimizer.state_dict()}, milestone=milestone)
    run.saved_step, run.saved_time = run.step, time.monotonic()


def describe(run: Run) -> dict[str, Any]:
    """Return the run in MoCo's checkpoint format, plus the state needed to resume exactly."""
    config = run.config
    return {
        "arch": config.model.arch,
        "epoch": run.step // run.steps_per_epoch if run.steps_per_epoch else 0,
        "step": run.step,
        "state_dict": to_moco_state(run.model),
        "scaler": run.scaler.state_dict(),
        "rng": torch.get_rng_state(),
        "config": as_dict(config),
    }


def restore(run: Run, content: dict[str, Any]) -> None:
    """Load a checkpoint's content into `run`; SettingsError if it was written with a different config."""
    check_same_recipe(content["config"], run.config, run.checkpoints.folder)
    run.model.load_state_dict(from_moco_state(content["state_dict"]))
    run.optimizer.load_state_dict(content["optimizer"])
    if run.scaler.is_enabled() and content["scaler"]:  # empty if the run used another precision so far
        run.scaler.load_state_dict(content["scaler"])
    torch.set_rng_state(content["rng"])
    run.step = run.saved_step = content["step"]
    logger.info("resuming after step %d", run.step)


def stop_here(run: Run, stop: StopFlag) -> None:
    """Save a checkpoint and raise YieldRequested."""
    if run.saved_step != run.step:
        save(run)
    run.checkpoints.wait()
    distributed.barrier()
    raise YieldRequested(f"{stop.reason or 'another rank was asked to stop'} after step {run.step}")


def refuse_broken_loss(run: Run, broken: Tensor) -> None:
    """Raise FloatingPointError if a loss since the last check was NaN or infinite, so that it is never saved."""
    if any(distributed.any_rank(bool(broken))):
        run.checkpoints.wait()
        good = run.checkpoints.list_files()
        raise FloatingPointError(
            f"the loss became NaN or infinite before step {run.step}; the last good checkpoint is "
            f"{good[0] if good else 'none yet'}. Lower optimizer.lr, or use engine.precision=fp32, and run again"
        )
