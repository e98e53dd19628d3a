"""Classify a validation set by its nearest training images in a backbone's feature space.

  python -m tools.classify_knn configs/transfer/knn_in1k.yaml encoder.pt data=imagenet out=runs/knn backbone=mochi
  python -m tools.classify_knn configs/transfer/knn_digits.yaml encoder.pt data=data/digits out=runs/knn backbone=mochi

WEIGHTS is any file that the converter reads. Nothing is trained. k and the temperature follow Wu et al. 2018.
OUT/metrics.json holds the top-1 accuracy in percent. A finished run returns immediately.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from pretrain.runtime.command_line import run_command, split_arguments
from pretrain.runtime.settings import read_settings


def main(arguments: Sequence[str]) -> int:
    """Run the classification, or read its stored result, and print the accuracy."""
    words, overrides = split_arguments(arguments, ["CONFIG", "WEIGHTS"])
    # heavy (torch): keep --help fast
    from transfer.probes.features import run_probe
    from transfer.probes.knn_run import KnnConfig, check_knn_config, run_knn
    from transfer.results.run_result import RESULT_NAME

    config = read_settings(KnnConfig, words[0], overrides)
    check_knn_config(config)
    result = run_probe(config, Path(words[1]), run_knn)
    print(
        f"{result.backbone}: kNN top-1 {result.metrics['top1']:.2f} % ({result.protocol}); {config.out}/{RESULT_NAME}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
