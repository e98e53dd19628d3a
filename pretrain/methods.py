"""Build the model of the configured pretraining method."""

from pretrain.config import PretrainConfig
from pretrain.input.loader import open_source
from pretrain.moco import MoCo
from pretrain.simclr import SimCLR
from pretrain.supervised import Supervised

METHODS = ("moco", "simclr", "supervised")
Method = MoCo | SimCLR | Supervised


def build_method(config: PretrainConfig) -> Method:
    """Return the model of `config.model.method`, initialised from torch's global generator.

    The supervised classifier has one output per class of the training set; without training (`run.epochs` = 0) it has
    `model.dim` outputs, and the data is not read.
    """
    if config.model.method == "supervised":
        return Supervised(config.model, classes=_count_classes(config))
    method = MoCo if config.model.method == "moco" else SimCLR
    return method(config.model, config.mixing)


def _count_classes(config: PretrainConfig) -> int:
    return len(open_source(config.data).classes) if config.run.epochs else config.model.dim
