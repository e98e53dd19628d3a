"""Detect during training that a run does not learn: the loss stays at chance, or all embeddings are equal.

Sources: Chen and He, "Exploring Simple Siamese Representation Learning" (arXiv 2011.10566), section 4.1, for the
standard deviation of embeddings; Garrido et al., "RankMe" (arXiv 2210.02885), equation 2, for their effective rank.

Shapes: n embeddings of unit length and width D.
"""

import logging
import math

import torch
from torch import Tensor

from pretrain.config import PretrainConfig
from pretrain.methods import Method
from pretrain.optimization.rates import FAR, rate_excess
from pretrain.runtime import distributed
from pretrain.supervised import Supervised

NEWEST = 1024
"""Number of newest embeddings that are examined."""
AT_CHANCE = 0.98
"""A loss above this fraction of its value for equal scores counts as chance."""
ONE_POINT = 0.1
"""An `embedding_std` below this counts as collapse to one point."""
CHANCE_SHARE, ONE_POINT_SHARE = 0.5, 0.2
"""Fractions of a run's steps after which a loss at chance and equal embeddings are reported: in a healthy run of 138
steps with MoCo the loss is above chance for the first 80 while the embeddings spread."""
SHORTEST_PATIENCE_STEPS, LONGEST_PATIENCE_STEPS = 50, 5000
"""Bounds of these waiting times."""
LOOKS = 3
"""Consecutive failed checks before a warning is logged."""
SHORT_RUN_STEPS = 10_000
SMALL_CROP_PX = 64
logger = logging.getLogger(__name__)


def embedding_std(embeddings: Tensor) -> float:
    """Return sqrt(D) times the RMS over dimensions of the standard deviation of (n, D) unit-length embeddings.

    1 if the embeddings are spread evenly over the sphere, 0 if they are equal.
    """
    variance = embeddings.double().var(dim=0, unbiased=False)  # (D,)
    return math.sqrt(variance.sum().item())


def effective_rank(embeddings: Tensor) -> float:
    """Return exp of the entropy of the normalised singular values of (n, D): 1 for parallel rows, at most D."""
    gram = embeddings.double().T @ embeddings.double()  # (D, D): its eigenvalues are the squared singular values
    values = torch.linalg.eigvalsh(gram).clamp_min(0).sqrt()
    shares = values / values.sum().clamp_min(torch.finfo(values.dtype).tiny)
    return math.exp(torch.special.entr(shares).sum().item())


def chance_loss(config: PretrainConfig, model: Method, *, mixing_on: bool) -> float:
    """Return the loss of a model that gives every candidate the same score: the logarithm of their number.

    Candidates: the classes (supervised); the positive, the queue (MoCo) or the other images of the batch (SimCLR),
    and the mixes.
    """
    if isinstance(model, Supervised):
        return math.log(model.classes)
    mixes = config.mixing.count if mixing_on else 0
    negatives = config.model.queue_len if config.model.method == "moco" else 2 * config.run.batch_size - 2
    return math.log(1 + negatives + mixes)


class CollapseMonitor:
    """Checks the loss and the newest embeddings with every line of the log; warns once, and again on recovery."""

    def __init__(self, config: PretrainConfig, model: Method, *, steps: int, steps_per_epoch: int) -> None:
        """Check `model` in a run of `steps`; warn if the learning-rate warm-up is as long as the run."""
        self._config, self._model = config, model
        self._steps, self._steps_per_epoch = steps, steps_per_epoch
        if config.optimizer.warmup_steps >= steps and distributed.is_main():
            logger.warning(
                "optimizer.warmup_steps=%d: the run has only %d steps, so the rate never reaches its peak; lower the "
                "warm-up or train longer",
                config.optimizer.warmup_steps,
                steps,
            )
        self._patience = {share: self._wait(share) for share in (CHANCE_SHARE, ONE_POINT_SHARE)}
        self._bad_looks, self._warned = 0, False

    def look(self, step: int, loss: float) -> dict[str, float]:
        """Return chance_loss, embedding_std and embedding_rank of the newest embeddings; log a warning if needed.

        Runs on the main rank only; returns {} on the others.
        """
        if not distributed.is_main():
            return {}
        epoch = (step - 1) // self._steps_per_epoch
        mixing_on = self._config.mixing.is_on_in(epoch, self._config.run.epochs)
        values = {"chance_loss": round(chance_loss(self._config, self._model, mixing_on=mixing_on), 6)}
        embeddings = self._newest()
        if embeddings is not None:
            values["embedding_std"] = round(embedding_std(embeddings), 4)
            values["embedding_rank"] = round(effective_rank(embeddings), 2)
        std, chance = values.get("embedding_std", 1.0), values["chance_loss"]
        at_chance = step >= self._patience[CHANCE_SHARE] and loss > AT_CHANCE * chance
        one_point = step >= self._patience[ONE_POINT_SHARE] and std < ONE_POINT
        self._warn(step, loss, chance, std, bad=at_chance or one_point)
        return values

    def _wait(self, share: float) -> int:
        """Return the first step to check: after `share` of the run, the warm-up, and the first filling of the queue."""
        config = self._config
        filled = math.ceil(config.model.queue_len / config.run.batch_size) if config.model.method == "moco" else 0
        patience = min(LONGEST_PATIENCE_STEPS, max(SHORTEST_PATIENCE_STEPS, round(share * self._steps)))
        return max(patience, filled, config.optimizer.warmup_steps)

    def _newest(self) -> Tensor | None:
        known = self._model.known_keys(NEWEST)
        if known is None:
            return None
        embeddings = known.keys[known.indices >= 0].cpu()
        return embeddings if len(embeddings) > 1 else None

    def _warn(self, step: int, loss: float, chance: float, std: float, *, bad: bool) -> None:
        self._bad_looks = self._bad_looks + 1 if bad else 0
        if self._warned and not bad:
            logger.warning(
                "step %d: the run learns now: loss %.3f (chance %.3f), embedding_std %.3f", step, loss, chance, std
            )
            self._warned = False
        if self._bad_looks == LOOKS and not self._warned:
            logger.warning(
                "step %d of %d: %s", step, self._steps, explain(self._config, self._steps, loss, chance, std)
            )
            self._warned = True


def explain(config: PretrainConfig, steps: int, loss: float, chance: float, std: float) -> str:
    """Return the diagnosis and the recommended changes, the most likely cause first."""
    if std < ONE_POINT:
        what = f"all images have nearly the same embedding (embedding_std {std:.3f}; evenly spread: 1), a collapse"
    else:
        what = f"the loss {loss:.3f} is at the level of equal scores ({chance:.3f}), so the run has learned nothing yet"
    remedies = []
    if (excess := rate_excess(config)) > FAR / 2:
        remedies.append(f"lower optimizer.lr ({excess:.1f} times its source's rate at this batch)")
    if config.model.method != "supervised" and config.model.head != "mlp_bn" and steps < SHORT_RUN_STEPS:
        remedies.append("set model.head=mlp_bn, which a short run needs")
    if not config.optimizer.warmup_steps:
        remedies.append(f"set optimizer.warmup_steps={max(10, min(1000, steps // 10))}")
    if config.data.crop_px < SMALL_CROP_PX:
        remedies.append(f"set data.crop_px={SMALL_CROP_PX} or more: the last feature map of a smaller view is one cell")
    if config.optimizer.name == "sgd":
        remedies.append("try optimizer.name=adamw with optimizer.lr=1e-3")
    if not remedies:
        remedies.append("train longer, or check that the labels match the images")
    return f"{what}. Try in this order: {'; '.join(remedies)}"
