r"""Pretrain an encoder: MoCHi, MoCo v1 or v2, SimCLR with or without mixing, or supervised (as a control).

  python -m tools.pretrain_encoder CONFIG run.out=FOLDER [key=value …]
  torchrun --nproc-per-node 8 -m tools.pretrain_encoder CONFIG run.out=FOLDER [key=value …]

CONFIG is a file in configs/pretrain/; key=value overrides any key of it, for example mixing.n=1024 or
optimizer.lr=0.06. Run the same command again to resume after a stop: the result equals that of an uninterrupted run.
Writes checkpoints/, metrics.jsonl, progress.json, tensorboard/ and, at the end, encoder.pt (for
tools.convert_checkpoint) into FOLDER; run.profile_steps=20 adds profile/ with a trace of 20 steps.

Example: python -m tools.pretrain_encoder configs/pretrain/mochi_r50_digits.yaml data.root=data/digits/imagenet \
             run.out=runs/mochi
"""

import sys
from collections.abc import Sequence

from pretrain.config import PretrainConfig
from pretrain.runtime.command_line import run_command, split_arguments
from pretrain.runtime.settings import read_settings
from pretrain.runtime.stopping import StopFlag


def main(arguments: Sequence[str]) -> int:
    """Pretrain; return 0 once encoder.pt is written."""
    (path,), overrides = split_arguments(arguments, ["CONFIG"])
    config = read_settings(PretrainConfig, path, overrides)
    from pretrain.train import train  # heavy: imports torch and torchvision

    try:
        encoder = train(config, StopFlag().install())
    except FloatingPointError as error:
        raise ValueError(str(error)) from error
    print(f"encoder: {encoder}")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
