"""Train a linear classifier on a frozen backbone.

  python -m tools.train_linear configs/transfer/linear_in1k.yaml encoder.pt data=imagenet out=runs/linear backbone=mochi
  torchrun --nproc-per-node=8 -m tools.train_linear configs/transfer/linear_in1k.yaml encoder.pt data=… out=…
  python -m tools.train_linear configs/transfer/linear_in1k.yaml encoder.pt data=… out=… sweep=[10,60] lr_rule=linear

WEIGHTS is any file that the converter reads. OUT/metrics.json holds the top-1 accuracy in percent after the last and
after the best epoch; OUT/linear.pt holds the heads. Repeat the command to resume; a finished run returns immediately.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from pretrain.runtime.command_line import run_command, split_arguments
from pretrain.runtime.settings import read_settings


def main(arguments: Sequence[str]) -> int:
    """Train or resume, or read the stored result, and print the accuracy."""
    words, overrides = split_arguments(arguments, ["CONFIG", "WEIGHTS"])
    # heavy (torch): keep --help fast
    from transfer.probes.features import run_probe
    from transfer.probes.linear_heads import LinearConfig, check_linear_config
    from transfer.probes.linear_run import train_linear

    config = read_settings(LinearConfig, words[0], overrides)
    check_linear_config(config)
    result = run_probe(config, Path(words[1]), train_linear)
    last, best = result.metrics["top1"], result.metrics["top1_best"]
    print(f"{result.backbone}: linear top-1 {last:.2f} %, best {best:.2f} % ({result.protocol}); {config.out}")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
