"""Classify a validation set by the nearest training images in a backbone's feature space.

  python -m tools.classify_knn configs/transfer/knn_in1k.yaml encoder.pt data=imagenet out=runs/knn backbone=mochi
  python -m tools.classify_knn configs/transfer/knn_digits.yaml encoder.pt data=data/digits out=runs/knn backbone=mochi

WEIGHTS is any file that the converter reads. Nothing is trained; k and the temperature are those of Wu et al. 2018.
OUT/metrics.json holds the top-1 accuracy in percent. A finished run returns at once.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from pretrain.runtime.command_line import run_command, split_arguments
from pretrain.runtime.settings import read_settings


def main(arguments: Sequence[str]) -> int:
    """Take the features of both splits, let the neighbours vote, write the result."""
    words, overrides = split_arguments(arguments, ["CONFIG", "WEIGHTS"])
    # heavy (torch): --help must answer at once
    import torch

    from pretrain.runtime import distributed
    from pretrain.runtime.stopping import StopFlag
    from transfer.probes.features import choose_device, find_finished
    from transfer.probes.knn_run import KnnConfig, check_knn_config, run_knn
    from transfer.results.run_result import RESULT_NAME

    config = read_settings(KnnConfig, words[0], overrides)
    check_knn_config(config)
    if config.threads:
        torch.set_num_threads(config.threads)
    stop = StopFlag().install()
    with distributed.process_group(choose_device(config.device)):
        result = distributed.on_main(lambda: find_finished(config, Path(words[1])))
        result = result or run_knn(config, Path(words[1]), stop)
    print(
        f"{result.backbone}: kNN top-1 {result.metrics['top1']:.2f} % ({result.protocol}); {config.out}/{RESULT_NAME}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
