r"""Fine-tune a detector on a converted backbone under a named protocol, and evaluate it.

  python -m tools.finetune_detector configs/transfer/voc_c4_digits.yaml runs/mochi.pkl out=runs/voc backbone=mochi \
      data=data/digits seed=0
  torchrun --nproc-per-node=8 -m tools.finetune_detector configs/transfer/voc_c4_24k_moco.yaml mochi.pkl \
      out=runs/voc24k backbone=mochi data=/data MODEL.CHANNELS_LAST=True

CONFIG is a file of configs/transfer, WEIGHTS a file made by tools.convert_checkpoint with its manifest beside it.
Options: out= folder of the run; backbone= name in tables; seed=; data= root of VOC2007, VOC2012 and coco;
batch_rule=same, divide or accumulate, with divisor=N for N times fewer GPUs than the protocol's; pixel_format=manifest
to use the pixel format in the weights' manifest instead of the config's (so that one protocol of a chain can serve
backbones of different pixel formats); and KEY=value for any key of Detectron2's config. Deviations from the protocol
are recorded in the result. Repeat the command to resume; a finished run returns immediately. Exit code 75: stopped on
request, run the command again.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pretrain.runtime.command_line import UsageError, run_command, split_arguments
from pretrain.runtime.settings import read_settings
from pretrain.runtime.stopping import StopFlag


@dataclass(frozen=True, kw_only=True)
class FinetuneSettings:
    """Options of the command line other than Detectron2's keys."""

    out: str = ""
    """Folder of the run."""
    backbone: str = ""
    """Name of the backbone in tables."""
    seed: int = 0
    """Seed of head initialisation, data order, augmentation and sampling."""
    data: str = ""
    """Root of the data sets; empty: DATASETS.ROOT of the config."""
    batch_rule: str = "same"
    """same, divide or accumulate; see transfer.detection.protocols.rewrite_for_fewer."""
    divisor: int = 1
    """Factor by which the number of GPUs is smaller than the protocol's."""
    pixel_format: str = ""
    """manifest (the pixel format of the weights), torchvision, msra, bgr or half; empty: the config's."""
    threads: int = 0
    """Intra-op CPU threads; 0: torch's default."""


def split_words(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split the options into those of `FinetuneSettings` and those of Detectron2's config (upper-case keys)."""
    ours = [word for word in overrides if word.split("=")[0].islower()]
    return ours, [word for word in overrides if word not in ours]


def main(arguments: Sequence[str]) -> int:
    """Run or resume the fine-tuning, or read its stored result, and print the metrics."""
    stop = StopFlag().install()  # before the slow imports, to catch early signals
    words, overrides = split_arguments(arguments, ["CONFIG", "WEIGHTS"])
    ours, keys = split_words(overrides)
    settings = read_settings(FinetuneSettings, None, ours)
    if not settings.out or not settings.backbone:
        raise UsageError("out=FOLDER and backbone=NAME are required. Add --help for an example.")

    import torch  # heavy: keep --help fast

    from transfer.detection.config import read_detector_config, set_pixel_format
    from transfer.detection.finetune import FinetuneRun, finetune
    from transfer.detection.protocols import describe_rewrite, rewrite_for_fewer
    from transfer.weights.manifest import pixel_format_of, read_manifest

    if settings.threads:
        torch.set_num_threads(settings.threads)
    cfg = read_detector_config(words[0], keys)
    cfg.SEED, cfg.OUTPUT_DIR = settings.seed, settings.out
    cfg.DATASETS.ROOT = settings.data or cfg.DATASETS.ROOT
    if settings.pixel_format:
        wanted = (
            pixel_format_of(read_manifest(words[1])) if settings.pixel_format == "manifest" else settings.pixel_format
        )
        set_pixel_format(cfg, wanted)
    smaller = rewrite_for_fewer(cfg, settings.batch_rule, settings.divisor)  # type: ignore[arg-type]
    note = describe_rewrite(cfg, smaller, settings.batch_rule, settings.divisor)
    run = FinetuneRun(backbone=settings.backbone, weights=Path(words[1]), out=Path(settings.out), note=note)
    result = finetune(smaller, run, stop)
    if result is not None:
        metrics = ", ".join(f"{name} {value:.2f}" for name, value in result.metrics.items() if value is not None)
        print(f"{result.protocol}, {result.backbone}, seed {result.seed}: {metrics}")
        check = result.details.get("reevaluation_warning") or "the saved model was re-evaluated to the same metrics"
        print(f"{len(result.deviations)} deviations from the protocol; {check}")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
