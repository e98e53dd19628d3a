"""Train a detector with Detectron2's trainer and hooks, so that it can be stopped, killed and resumed exactly."""

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
    """The stop flag was set and the work is saved; no Exception, so that Detectron2 logs no failure."""


class AccumulatingTrainer(SimpleTrainer):
    """Detectron2's SimpleTrainer with `parts` batches behind each optimizer step.

    float16 with a scaler under `amp` (CUDA), or bfloat16 without one under `cpu_bf16`.
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
        """Add up the gradients of the mean loss over the parts, then step once."""
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
        """Return Detectron2's state and the scaler's."""
        return {**super().state_dict(), "scaler": self.scaler.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore both."""
        super().load_state_dict(state_dict)
        self.scaler.load_state_dict(state_dict["scaler"])


class CurveWriter(EventWriter):
    """Append {"step": finished steps, name: value, …} to metrics.jsonl; lines after `first_step` are dropped first."""

    def __init__(self, path: Path, first_step: int) -> None:
        self.path, self.last = path, first_step
        kept = [line for line in read_json_lines(path) if line["step"] <= first_step]
        write_text(path, "")
        for line in kept:
            append_json_line(path, line)

    def write(self) -> None:
        """Write the newest values as they are: smoothed ones would differ after a resume."""
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
    """Tell the progress, write checkpoints in time, and stop when some rank was asked to."""

    def __init__(
        self, cfg: Any, checkpointer: DetectorCheckpointer, stop: StopFlag, heartbeat: Heartbeat, *, seconds: float
    ) -> None:
        """`seconds`: what earlier attempts of this run took."""
        self.cfg, self.checkpointer, self.stop, self.heartbeat = cfg, checkpointer, stop, heartbeat
        self.began = self.saved = time.monotonic()
        self.earlier_s = seconds

    def after_step(self) -> None:
        """Save when it is time, or when a stop was asked for; then end the training."""
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
        """Return how long the run has taken, earlier attempts included."""
        return self.earlier_s + time.monotonic() - self.began


def is_due(period: int, done: int) -> bool:
    """Return whether an evaluation follows `done` finished steps."""
    return period > 0 and done > 0 and done % period == 0


class EvaluationHook(HookBase):
    """Call `evaluate(step)` every TEST.EVAL_PERIOD steps, but not at the last: the run itself ends with one.

    Comes after the hook that saves: a run that is stopped or killed in an evaluation begins with that evaluation again,
    so its norms' statistics go on as in the uninterrupted run.
    """

    def __init__(self, period: int, evaluate: Any) -> None:
        self.period, self.evaluate = period, evaluate

    def before_train(self) -> None:
        """Evaluate again where the checkpoint was written just before an evaluation."""
        self._evaluate(self.trainer.start_iter)

    def after_step(self) -> None:
        """Evaluate, and put the metrics beside the losses."""
        self._evaluate(self.trainer.iter + 1)

    def _evaluate(self, done: int) -> None:
        if is_due(self.period, done) and done < self.trainer.max_iter:
            metrics = self.evaluate(done)
            self.trainer.storage.put_scalars(**metrics, smoothing_hint=False)
            self.trainer.model.train()


def make_trainer(cfg: Any, model: Any, loader: Any, optimizer: Any) -> Any:
    """Return Detectron2's SimpleTrainer or AMPTrainer, or ours where batches are accumulated or a CPU takes bf16.

    Raises:
        ValueError: SOLVER.AMP.ENABLED on a CPU.

    """
    amp = cfg.SOLVER.AMP.ENABLED
    if amp and cfg.MODEL.DEVICE != "cuda":
        raise ValueError("SOLVER.AMP.ENABLED needs a CUDA device (MODEL.DEVICE is cpu); set it to False")
    cpu_bf16 = cfg.SOLVER.CPU_BF16 and cfg.MODEL.DEVICE == "cpu" and computes_in_bf16(CPU_INFO)
    if cfg.SOLVER.ACCUMULATE > 1 or cpu_bf16:
        parts = cfg.SOLVER.ACCUMULATE
        return AccumulatingTrainer(model, loader, optimizer, parts=parts, amp=amp, cpu_bf16=cpu_bf16)
    return (AMPTrainer if amp else SimpleTrainer)(model, loader, optimizer)


def make_writers(out: Path, max_iter: int, first_step: int) -> list[Any]:
    """Return the main process's writers: the log with an ETA, metrics.jsonl, TensorBoard."""
    curves = CurveWriter(out / "metrics.jsonl", first_step)
    return [CommonMetricPrinter(max_iter), curves, TensorboardXWriter(str(out / "tensorboard"))]


def make_hooks(cfg: Any, out: Path, scheduler: Any, first_step: int, *ours: Any) -> list[Any]:
    """Return Detectron2's timing, schedule and writing, then `ours`: a checkpoint holds the schedule after the step."""
    writers = make_writers(out, cfg.SOLVER.MAX_ITER, first_step) if comm.is_main_process() else []
    return [
        hooks.IterationTimer(),
        hooks.LRScheduler(scheduler=scheduler),
        *ours,
        *([hooks.PeriodicWriter(writers, cfg.RUN.LOG_EVERY_STEPS)] if writers else []),
    ]
