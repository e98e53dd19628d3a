"""Compare our pretraining, including data loading, with the reference's MoCo-v2 on the same image files, in one run.

  python -m tools.benchmark_training json=training.json
  python -m tools.benchmark_training device=cuda crop_px=224 batch_size=256 images=5120 workers=16

The reference reimplements facebookresearch/moco on one device: PIL views, float tensors from the loader, float32, and
the step of moco/builder.py and main_moco.py. Rows: moco_vs_reference (our MoCo-v2 with the engine's defaults) and
mochi_vs_moco (the cost of mixing). Measurements are interleaved in rounds; data_wait_share is the fraction of the time
spent waiting for images.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pretrain.runtime.command_line import run_command, split_arguments
from pretrain.runtime.settings import read_settings
from tools.benchmarks.rounds import divide, summarise_ratios, take_turns

if TYPE_CHECKING:
    import torch

    from pretrain.config import PretrainConfig


@dataclass(frozen=True, kw_only=True)
class BenchmarkSettings:
    """Rounds, sizes, device and output of the benchmark."""

    json: str = ""
    """JSON file to write; empty: print only."""
    device: str = "auto"
    """auto (cuda if available), cuda or cpu."""
    rounds: int = 5
    """Counted rounds; one warm-up round precedes them."""
    images: int = 64
    """Images per round; at least batch_size."""
    arch: str = "resnet50"
    """torchvision's name of the encoder's ResNet."""
    crop_px: int = 64
    """Side of a view in pixels."""
    batch_size: int = 16
    """Images per step."""
    queue_len: int = 65536
    """K, the number of keys in the queue."""
    n: int = 1024
    """N, the number of hardest negatives to mix from."""
    s: int = 1024
    """s, pair mixes per query."""
    s_prime: int = 128
    """s', query mixes per query."""
    workers: int = 1
    """DataLoader processes of each training."""


class Training(Protocol):
    """A training that can be timed epoch by epoch."""

    def run_turn(self) -> tuple[float, float]:
        """Take one epoch's steps; return (seconds, of them waited for images)."""


class OurTraining:
    """`pretrain.train`'s own loader and step."""

    def __init__(self, config: "PretrainConfig", device: "torch.device") -> None:
        from pretrain.input.loader import build_loader  # heavy, see main
        from pretrain.train import prepare

        self.run, self.turn = prepare(config, device), 0
        self.loader = build_loader(config.data, global_batch=config.run.batch_size, seed=0, device=device)

    def run_turn(self) -> tuple[float, float]:
        """Take one epoch's steps; return (seconds, of them waited for images)."""
        from pretrain.train import take_step  # heavy, see main

        self.loader.sampler.set_position(self.turn)
        self.turn += 1
        clock = Clock(self.run.device)
        for batch in clock.watch(iter(self.loader)):
            take_step(self.run, batch, self.run.config.optimizer.lr, mixing_on=self.run.config.mixing.is_on)
            self.run.step += 1
        return clock.stop()


class ReferenceTraining:
    """MoCo-v2 as in facebookresearch/moco, without DistributedDataParallel."""

    def __init__(self, root: Path, settings: BenchmarkSettings, device: "torch.device") -> None:
        from tools.benchmarks.reference_moco import ReferenceMoCo  # heavy, see main
        from tools.benchmarks.reference_views import build_reference_loader

        self.device = device
        self.moco = ReferenceMoCo(settings.arch, settings.queue_len).to(device)
        self.batches = build_reference_loader(
            root, crop_px=settings.crop_px, batch_size=settings.batch_size, workers=settings.workers
        )

    def run_turn(self) -> tuple[float, float]:
        """Take one epoch's steps; return (seconds, of them waited for images)."""
        clock = Clock(self.device)
        for (im_q, im_k), _ in clock.watch(iter(self.batches)):
            self.moco.take_step(im_q.to(self.device, non_blocking=True), im_k.to(self.device, non_blocking=True))
        return clock.stop()


class Clock:
    """Measure the seconds of an epoch and the part spent waiting for batches."""

    def __init__(self, device: "torch.device") -> None:
        self.device, self.waited, self.began = device, 0.0, time.perf_counter()

    def watch(self, batches: Iterator[Any]) -> Iterator[Any]:
        """Yield the batches and add up the time spent waiting for them."""
        while True:
            started = time.perf_counter()
            batch = next(batches, None)
            self.waited += time.perf_counter() - started
            if batch is None:
                return
            yield batch

    def stop(self) -> tuple[float, float]:
        """Wait for the device; return (seconds, seconds spent waiting for batches)."""
        if self.device.type == "cuda":
            import torch  # heavy, see main

            torch.cuda.synchronize(self.device)
        return time.perf_counter() - self.began, self.waited


def main(arguments: Sequence[str]) -> None:
    """Measure, print one line per row, write JSON."""
    _, overrides = split_arguments(arguments, [])
    settings = read_settings(BenchmarkSettings, overrides=overrides)
    # heavy
    from pretrain.config import EngineConfig
    from pretrain.runtime import distributed
    from pretrain.runtime.device import choose_device
    from pretrain.runtime.machine import describe_machine, read_commit
    from pretrain.runtime.storage import write_json
    from tools.benchmarks.benchmark_views import write_photos

    if settings.images < settings.batch_size:
        raise ValueError(f"images={settings.images}: expected at least batch_size={settings.batch_size}")
    device = choose_device(EngineConfig(device=settings.device))
    with tempfile.TemporaryDirectory() as folder, distributed.process_group(device):
        write_photos(Path(folder) / "images", settings.images)
        trainings = build_trainings(Path(folder), settings, device)
        turns = take_turns({name: training.run_turn for name, training in trainings.items()}, settings.rounds)
    rows = summarise(turns, settings)
    for name, row in rows.items():
        print(
            f"{name:18} {row['speedup']:.3f}x as fast ({row['low']:.3f}…{row['high']:.3f}), {row['images_per_s']} img/s"
        )
    result = {"rows": rows, "machine": describe_machine(), "commit": read_commit(), "settings": vars(settings)}
    if settings.json:
        write_json(settings.json, result)


def build_trainings(folder: Path, settings: BenchmarkSettings, device: "torch.device") -> dict[str, Training]:
    """Return the reference, our MoCo-v2 and our MoCHi."""
    from pretrain.config import DataConfig, EngineConfig, MixingConfig, ModelConfig, PretrainConfig, RunConfig

    moco = PretrainConfig(
        data=DataConfig(root=str(folder / "images"), crop_px=settings.crop_px, workers=settings.workers),
        model=ModelConfig(arch=settings.arch, queue_len=settings.queue_len),
        engine=EngineConfig(device=device.type),
        run=RunConfig(out=str(folder / "run"), batch_size=settings.batch_size),
    )
    mochi = replace(moco, mixing=MixingConfig(n=settings.n, s=settings.s, s_prime=settings.s_prime))
    return {
        "reference": ReferenceTraining(folder / "images", settings, device),
        "moco": OurTraining(moco, device),
        "mochi": OurTraining(mochi, device),
    }


def summarise(turns: dict[str, list[tuple[float, float]]], settings: BenchmarkSettings) -> dict[str, dict[str, Any]]:
    """Return each row's speed-up over its reference: median, minimum and maximum over the rounds."""
    images = settings.images // settings.batch_size * settings.batch_size
    rows = {}
    for ours, reference in (("moco", "reference"), ("mochi", "moco")):
        mine, theirs = ([seconds for seconds, _ in turns[name]] for name in (ours, reference))
        rows[f"{ours}_vs_{reference}"] = {
            **summarise_ratios(divide(theirs, mine), "speedup"),
            "images_per_s": round(images / statistics.median(mine), 1),
            "data_wait_share": share_waited(turns[ours]),
            "reference_images_per_s": round(images / statistics.median(theirs), 1),
            "reference_data_wait_share": share_waited(turns[reference]),
        }
    return rows


def share_waited(turns: list[tuple[float, float]]) -> float:
    """Return the fraction of the total time that was spent waiting for images."""
    return round(sum(waited for _, waited in turns) / sum(seconds for seconds, _ in turns), 4)


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
