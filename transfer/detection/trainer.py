"""Train a detector with Detectron2's trainer and hooks; a stopped or killed run resumes exactly."""

import logging
import math
import time
from pathlib import Path
from typing import Any

import torch
from detectron2.engine import AMPTrainer, HookBase, SimpleTrainer, hooks
from detectron2.utils import comm
from detectron2.utils.events import CommonMetricPrinter, EventWriter, TensorboardXWriter, get_event_storage

from pretrain.runtime import distributed
from pretrain.runtime.device import CPU_INFO, computes_in_bf16
from pretrain.runtime.progress import Heartbeat
from pretrain.runtime.stopping import StopFlag
from pretrain.runtime.storage import append_json_line, read_json_lines, write_text
from transfer.detection.checkpoint import DetectorCheckpointer

logger = logging.getLogger(__name__)


class StopTraining(BaseException):
    """Raised after a stop request, once the checkpoint is saved; a BaseException, so Detectron2 logs no failure."""


class AccumulatingTrainer(SimpleTrainer):
    """Detectron2's SimpleTrainer with gradients accumulated over `parts` batches per optimizer step.

    `amp` uses float16 with a gradient scaler on CUDA; `cpu_bf16` uses bfloat16 without a scaler on a CPU.
    """

    def __init__(
        self, model: Any, data_loader: Any, optimizer: Any, *, parts: int, amp: bool, cpu_bf16: bool = False
    ) -> None:
        super().__init__(model, data_loader, optimizer)
        self.parts, self.amp = parts, amp
        self.autocast = ("cpu", torch.bfloat16) if cpu_bf16 else ("cuda", torch.float16)
        self.casts = amp or cpu_bf16
        self.scaler = torch.amp.GradScaler("cuda", enabled=amp)

    def run_step(self) -> None:
        """Accumulate the gradients of the mean loss over the parts, then take one optimizer step."""
        self.optimizer.zero_grad()
        sums: dict[str, torch.Tensor] = {}
        data_s = 0.0
        for _ in range(self.parts):
            began = time.perf_counter()
            batch = next(self._data_loader_iter)
            data_s += time.perf_counter() - began
            with torch.autocast(*self.autocast, enabled=self.casts):
                losses = {name: loss / self.parts for name, loss in self.model(batch).items()}
            self.scaler.scale(sum(losses.values())).backward()
            sums = {name: loss.detach() + sums.get(name, 0) for name, loss in losses.items()}
        self._write_metrics(sums, data_s)
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def state_dict(self) -> dict[str, Any]:
        """Return the state of Detectron2's trainer and of the scaler."""
        return {**super().state_dict(), "scaler": self.scaler.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state of Detectron2's trainer and of the scaler."""
        super().load_state_dict(state_dict)
        self.scaler.load_state_dict(state_dict["scaler"])


class CurveWriter(EventWriter):
    """Append {"step": completed steps, name: value, …} to metrics.jsonl; first delete lines after `first_step`."""

    def __init__(self, path: Path, first_step: int) -> None:
        self.path, self.last = path, first_step
        kept = [line for line in read_json_lines(path) if line["step"] <= first_step]
        write_text(path, "")
        for line in kept:
            append_json_line(path, line)

    def write(self) -> None:
        """Write the latest values unsmoothed, because smoothed values would differ after a resume."""
        storage = get_event_storage()
        fresh = {
            name: value
            for name, (value, step) in storage.latest().items()
            if step >= self.last and math.isfinite(value)
        }
        step = min(storage.iter + 1, max((step + 1 for _, step in storage.latest().values()), default=0))
        if fresh and step > self.last:
            append_json_line(self.path, {"step": step, **fresh})
            self.last = step


class RunHook(HookBase):
    """Report progress, write checkpoints on schedule, and stop all ranks if any rank received a stop request."""

    def __init__(
        self, cfg: Any, checkpointer: DetectorCheckpointer, stop: StopFlag, heartbeat: Heartbeat, *, seconds: float
    ) -> None:
        """`seconds`: duration of earlier attempts of this run."""
        self.cfg, self.checkpointer, self.stop, self.heartbeat = cfg, checkpointer, stop, heartbeat
        self.began = self.saved = time.monotonic()
        self.earlier_s = seconds

    def after_step(self) -> None:
        """Save if a checkpoint is due or a stop was requested; raise StopTraining on a stop."""
        done = self.trainer.iter + 1
        if comm.is_main_process():
            self.heartbeat.beat(done, "train")
        (stopping,) = distributed.any_rank(self.stop.is_set)
        now = time.monotonic()
        due = done % self.cfg.SOLVER.CHECKPOINT_PERIOD == 0 or now - self.saved > 60 * self.cfg.RUN.CHECKPOINT_MINUTES
        before_evaluation = is_due(self.cfg.TEST.EVAL_PERIOD, done)
        if stopping or due or before_evaluation or done == self.trainer.max_iter:
            self.saved = now
            self.checkpointer.save_step(done, seconds=self.seconds())
        if stopping and done < self.trainer.max_iter:
            raise StopTraining

    def seconds(self) -> float:
        """Return the duration of the run in seconds, including earlier attempts."""
        return self.earlier_s + time.monotonic() - self.began


def is_due(period: int, done: int) -> bool:
    """Return whether an evaluation follows `done` completed steps."""
    return period > 0 and done > 0 and done % period == 0


class EvaluationHook(HookBase):
    """Call `evaluate(step)` every TEST.EVAL_PERIOD steps except the last, because the run ends with an evaluation.

    Runs after the hook that saves: a run stopped or killed during an evaluation repeats it on resume, so the norms'
    statistics equal those of the uninterrupted run.
    """

    def __init__(self, period: int, evaluate: Any) -> None:
        self.period, self.evaluate = period, evaluate

    def before_train(self) -> None:
        """Repeat the evaluation if the checkpoint was written just before one."""
        self._evaluate(self.trainer.start_iter)

    def after_step(self) -> None:
        """Evaluate if due, and store the metrics with the losses."""
        self._evaluate(self.trainer.iter + 1)

    def _evaluate(self, done: int) -> None:
        if is_due(self.period, done) and done < self.trainer.max_iter:
            metrics = self.evaluate(done)
            self.trainer.storage.put_scalars(**metrics, smoothing_hint=False)
            self.trainer.model.train()


def make_trainer(cfg: Any, model: Any, loader: Any, optimizer: Any) -> Any:
    """Return Detectron2's SimpleTrainer or AMPTrainer, or AccumulatingTrainer for accumulation or bf16 on a CPU.

    Raises:
        ValueError: SOLVER.AMP.ENABLED on a CPU.

    """
    amp = cfg.SOLVER.AMP.ENABLED
    if amp and cfg.MODEL.DEVICE != "cuda":
        raise ValueError(
            f"SOLVER.AMP.ENABLED needs a CUDA device (MODEL.DEVICE is {cfg.MODEL.DEVICE}); set it to False"
        )
    cpu_bf16 = cfg.SOLVER.CPU_BF16 and cfg.MODEL.DEVICE == "cpu" and computes_in_bf16(CPU_INFO)
    if cfg.SOLVER.ACCUMULATE > 1 or cpu_bf16:
        parts = cfg.SOLVER.ACCUMULATE
        return AccumulatingTrainer(model, loader, optimizer, parts=parts, amp=amp, cpu_bf16=cpu_bf16)
    return (AMPTrainer if amp else SimpleTrainer)(model, loader, optimizer)


def make_writers(out: Path, max_iter: int, first_step: int) -> list[Any]:
    """Return the main rank's writers: the log with an ETA, metrics.jsonl, TensorBoard."""
    curves = CurveWriter(out / "metrics.jsonl", first_step)
    return [CommonMetricPrinter(max_iter), curves, TensorboardXWriter(str(out / "tensorboard"))]


def make_hooks(cfg: Any, out: Path, scheduler: Any, first_step: int, *ours: Any) -> list[Any]:
    """Return Detectron2's hooks for timing and schedule, then `ours`, so checkpoints hold the updated schedule."""
    writers = make_writers(out, cfg.SOLVER.MAX_ITER, first_step) if comm.is_main_process() else []
    return [
        hooks.IterationTimer(),
        hooks.LRScheduler(scheduler=scheduler),
        *ours,
        *([hooks.PeriodicWriter(writers, cfg.RUN.LOG_EVERY_STEPS)] if writers else []),
    ]
