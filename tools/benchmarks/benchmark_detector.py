"""Compare the time of our training step with plain Detectron2's on the same config, model and images.

  python -m tools.benchmark_detector configs/transfer/voc_c4_digits.yaml data=data/digits json=/tmp/detector.json

Plain: Detectron2's SimpleTrainer, its training loader with TrainingSampler, and its hooks. Ours: the same trainer with
resumable order, seeding, stop flag and heartbeat. Measurements are interleaved in rounds; the result is the median of
ours / plain over the rounds, with its range. KEY=value sets any key of the config. Only ours uses
MODEL.CHANNELS_LAST=True, which together with SOLVER.AMP.ENABLED=True is faster on a GPU.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pretrain.runtime.command_line import run_command, split_arguments
from pretrain.runtime.machine import describe_machine
from pretrain.runtime.settings import read_settings
from pretrain.runtime.storage import write_json
from tools.benchmarks.rounds import divide, summarise_ratios, take_turns

TARGET = 1.02
"""Maximum ratio of the time of our step to plain Detectron2's."""


@dataclass(frozen=True, kw_only=True)
class BenchmarkSettings:
    """Data, rounds and output of the benchmark."""

    data: str = ""
    """Root of the data sets."""
    json: str = ""
    """JSON file to write; empty: print only."""
    rounds: int = 5
    """Counted rounds; one warm-up round precedes them."""
    steps: int = 6
    """Steps per measurement."""
    seed: int = 0
    """Seed of the model and of the order of the images."""


def main(arguments: Sequence[str]) -> int:
    """Measure, print and write."""
    words, overrides = split_arguments(arguments, ["CONFIG"])
    ours = [word for word in overrides if word.split("=")[0].islower()]
    settings = read_settings(BenchmarkSettings, None, ours)
    from transfer.detection.config import read_detector_config
    from transfer.detection.data.datasets import register_datasets

    cfg = read_detector_config(words[0], [word for word in overrides if word not in ours])
    cfg.SEED = settings.seed
    cfg.DATASETS.ROOT = settings.data or cfg.DATASETS.ROOT
    cfg.MODEL.RESNETS.NORM = cfg.MODEL.FPN.NORM = "BN"  # one process
    register_datasets(cfg)
    with tempfile.TemporaryDirectory() as folder:
        sides = {"plain": _Plain(cfg, settings), "ours": _Ours(cfg, settings, Path(folder))}
        times = take_turns({name: side.time_step for name, side in sides.items()}, settings.rounds)
    _report(settings, words[0], times)
    return 0


class _Plain:
    """Detectron2's own trainer, loader and hooks."""

    def __init__(self, cfg: Any, settings: BenchmarkSettings) -> None:
        import torch
        from detectron2.data import build_detection_train_loader
        from detectron2.engine import SimpleTrainer, hooks
        from detectron2.modeling import build_model
        from detectron2.solver import build_lr_scheduler, build_optimizer

        import transfer.detection.heads  # noqa: F401  registers the head

        torch.manual_seed(settings.seed)
        model = build_model(cfg)
        optimizer = build_optimizer(cfg, model)
        self.trainer = SimpleTrainer(model, build_detection_train_loader(cfg), optimizer)
        scheduler = build_lr_scheduler(cfg, optimizer)
        self.trainer.register_hooks([hooks.IterationTimer(), hooks.LRScheduler(scheduler=scheduler)])
        self.step, self.steps = 0, settings.steps

    def time_step(self) -> float:
        """Train `steps` more steps; return the seconds per step, including the device's work."""
        import torch

        began = time.perf_counter()
        self.trainer.train(self.step, self.step + self.steps)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.step += self.steps
        return (time.perf_counter() - began) / self.steps


class _Ours(_Plain):
    """The project's trainer, loader and hooks."""

    def __init__(self, cfg: Any, settings: BenchmarkSettings, folder: Path) -> None:
        import torch
        from detectron2.engine import hooks
        from detectron2.modeling import build_model

        from pretrain.runtime.progress import Heartbeat
        from pretrain.runtime.stopping import StopFlag
        from transfer.detection.checkpoint import DetectorCheckpointer
        from transfer.detection.finetune import build_trainer
        from transfer.detection.trainer import RunHook

        torch.manual_seed(settings.seed)
        model = build_model(cfg)
        if cfg.MODEL.CHANNELS_LAST:
            model = model.to(memory_format=torch.channels_last)
        self.trainer, scheduler = build_trainer(cfg, model, batches_done=0)
        cfg = cfg.clone()
        cfg.SOLVER.CHECKPOINT_PERIOD = 10**9  # checkpoints are written every 15 minutes, so they are excluded
        checkpointer = DetectorCheckpointer(model, folder, save_to_disk=False)
        heartbeat = Heartbeat(folder, 10**9)
        hook = RunHook(cfg, checkpointer, StopFlag(), heartbeat, seconds=0.0)
        self.trainer.register_hooks([hooks.IterationTimer(), hooks.LRScheduler(scheduler=scheduler), hook])
        self.step, self.steps = 0, settings.steps


def _report(settings: BenchmarkSettings, config: str, times: dict[str, list[float]]) -> None:
    row = {
        "name": "detector_step",
        **summarise_ratios(divide(times["ours"], times["plain"])),
        "target": TARGET,
        "plain_s": statistics.median(times["plain"]),
        "ours_s": statistics.median(times["ours"]),
        "best_ratio": min(times["ours"]) / min(times["plain"]),
    }
    print(
        f"{config}: a step of ours costs {row['ratio']:.3f} ({row['low']:.3f} to {row['high']:.3f}, {row['rounds']} "
        f"rounds) of plain Detectron2's {row['plain_s']:.3f} s; target {TARGET}; fastest by fastest "
        f"{row['best_ratio']:.3f}"
    )
    if settings.json:
        write_json(settings.json, {"config": config, "rows": [row], "machine": describe_machine()})


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
