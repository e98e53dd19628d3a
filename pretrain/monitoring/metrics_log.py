"""Log the metrics of a pretraining: progress bar, metrics.jsonl, TensorBoard, W&B and heartbeat, on the main rank."""

import json
import logging
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from pretrain.config import PretrainConfig
from pretrain.loss import ContrastiveOutput
from pretrain.runtime import distributed
from pretrain.runtime.progress import Heartbeat
from pretrain.runtime.settings import as_dict
from pretrain.runtime.storage import append_json_line, read_json_lines, write_text

logger = logging.getLogger(__name__)


class MetricsLog:
    """Accumulate the metrics of the steps and write a line every `run.log_every_steps`.

    Keys: loss, accuracy and accuracy_with_mixes (proxy task, or training top-1 if supervised, %), lr, images_per_s,
    data_wait (fraction of the time spent waiting for the loader), queue_age_steps, broken_images (replaced since this
    start of the run, if any), those of collapse.py, and those of epoch_checks.py per epoch.
    """

    def __init__(self, config: PretrainConfig, *, first_step: int, steps: int, steps_per_epoch: int) -> None:
        self._config, self._steps, self._steps_per_epoch = config, steps, steps_per_epoch
        self._main = distributed.is_main()
        out = Path(config.run.out)
        self._lines = out / "metrics.jsonl"
        if self._main:
            _forget_lines_after(self._lines, first_step)
        self._wandb = _start_wandb(config) if self._main and config.run.wandb else None
        self._board = SummaryWriter(str(out / "tensorboard"), purge_step=first_step) if self._main else None
        self._heartbeat = Heartbeat(out, steps, first_step=first_step)
        self._bar = tqdm(total=steps, initial=first_step, unit="step", disable=not self._main, mininterval=1)
        self._sums: dict[str, Tensor] = {}
        self._count = 0
        self._wait_s, self._since = 0.0, time.perf_counter()
        self._broken = 0

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, kind: type[BaseException] | None, _value: object, _trace: TracebackType | None) -> None:
        self._bar.close()
        if self._board is not None:
            self._board.close()
        if self._wandb is not None:
            self._wandb.finish(exit_code=0 if kind is None else 1)

    def note_wait(self, seconds: float) -> None:
        """Add the time in seconds that a step waited for its batch."""
        self._wait_s += seconds

    def note_broken(self, images: int) -> None:
        """Add the number of unreadable images replaced in this rank's batch; log a warning for the first ones."""
        if images and not self._broken:
            logger.warning(
                "%d unreadable images of a batch were replaced with the next readable ones (data.skip_broken=true); "
                "metrics.jsonl counts them as broken_images",
                images,
            )
        self._broken += images

    def is_due(self, step: int) -> bool:
        """Return whether `note_step` writes after `step`."""
        return step % self._config.run.log_every_steps == 0 or step == self._steps

    def note_step(
        self, step: int, output: ContrastiveOutput, lr: float, more: Mapping[str, float] | None = None
    ) -> None:
        """Add one step's result without synchronising with the device; write a line, including `more`, if due."""
        values = {
            "loss": output.loss.detach(),
            "accuracy": 100 * output.hits.float().mean(),
            "accuracy_with_mixes": 100 * output.hits_with_mixes.float().mean(),
        }
        for key, value in values.items():
            self._sums[key] = self._sums[key] + value if key in self._sums else value
        self._count += 1
        if self._main:
            self._bar.update(1)
            self._heartbeat.beat(step, f"epoch {(step - 1) // self._steps_per_epoch + 1}")
        if self.is_due(step):
            self._write_line(step, lr, more or {})

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Log `values` at `step` to metrics.jsonl, TensorBoard and W&B; no-op if empty."""
        if not self._main or not values:
            return
        epoch = step / self._steps_per_epoch if self._steps_per_epoch else 0.0
        append_json_line(self._lines, {"step": step, "epoch": round(epoch, 4), **values})
        for key, value in values.items():
            if self._board is not None and isinstance(value, int | float):
                self._board.add_scalar(key, value, step)
        if self._wandb is not None:
            self._wandb.log(dict(values), step=step)

    def _write_line(self, step: int, lr: float, more: Mapping[str, float]) -> None:
        seconds = time.perf_counter() - self._since
        means = {key: distributed.mean_over_ranks(float(value) / self._count) for key, value in self._sums.items()}
        batch = self._config.run.batch_size
        values = {key: round(value, 6) for key, value in means.items()} | {
            "lr": lr,
            "images_per_s": round(self._count * batch / seconds, 2),
            "data_wait": round(min(1.0, self._wait_s / seconds), 4),
        }
        if self._config.model.method == "moco":
            filled = min(self._config.model.queue_len, step * batch)
            # Keys leave in order, so the mean age is half the maximum.
            values["queue_age_steps"] = round(filled / batch / 2, 2)
        if self._config.data.skip_broken and (broken := distributed.add_counts(self._broken)):
            values["broken_images"] = broken
        self.write(step, {**values, **more})
        if self._main:
            task = "top-1" if self._config.model.method == "supervised" else "proxy"
            shown = {"loss": f"{values['loss']:.3f}", task: f"{values['accuracy']:.1f}%"}
            self._bar.set_postfix(shown | {"img/s": f"{values['images_per_s']:.0f}"}, refresh=False)
        self._sums, self._count, self._wait_s, self._since = {}, 0, 0.0, time.perf_counter()


def _forget_lines_after(path: Path, step: int) -> None:
    """Remove lines of steps that a killed run took after its last checkpoint, and an incomplete last line."""
    kept = [line for line in read_json_lines(path) if line["step"] <= step]
    write_text(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in kept))


def _start_wandb(config: PretrainConfig) -> Any:
    try:
        import wandb  # optional, and slow to import
    except ImportError as error:
        raise ValueError("run.wandb=true needs the package wandb: install it with `uv pip install wandb`") from error
    name = Path(config.run.out) / "wandb_id.txt"  # a resumed run continues the same W&B run
    if not name.is_file():
        write_text(name, secrets.token_hex(8))
    return wandb.init(
        project="mochi-transfer", dir=config.run.out, id=name.read_text(), resume="allow", config=as_dict(config)
    )
