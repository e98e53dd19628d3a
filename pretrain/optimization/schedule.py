"""Learning rates as pure functions of progress, by fvcore's schedulers."""

from fvcore.common.param_scheduler import CosineParamScheduler, MultiStepParamScheduler, ParamScheduler

from pretrain.config import OptimizerConfig

DROP = 0.1
"""Factor of the step schedule at each milestone (facebookresearch/moco, main_moco.py)."""
LINEAR_RULE_BATCH = 256
"""The linear rule scales the rate with batch / 256 (Goyal et al., arXiv 1706.02677)."""


def build_schedule(settings: OptimizerConfig, batch_size: int) -> ParamScheduler:
    """Return the learning rate as a function of progress in [0, 1): cosine to 0, or steps at the milestones."""
    lr = settings.lr * (batch_size / LINEAR_RULE_BATCH if settings.lr_rule == "linear" else 1)
    if settings.schedule == "cosine":
        cosine: ParamScheduler = CosineParamScheduler(lr, 0.0)
        return cosine
    values = [lr * DROP**power for power in range(len(settings.milestones) + 1)]
    # fvcore counts updates; a million of them makes shares of the whole exact to 1e-6.
    resolution = 10**6
    marks = [round(share * resolution) for share in settings.milestones]
    steps: ParamScheduler = MultiStepParamScheduler(values, num_updates=resolution, milestones=marks)
    return steps


def find_rate(schedule: ParamScheduler, settings: OptimizerConfig, *, step: int, steps: int, epochs: int) -> float:
    """Return the rate of `step` of `steps`: moved per epoch as in the reference, or with `per_step` at every step."""
    if settings.per_step:
        return float(schedule(step / steps))
    steps_per_epoch = steps // epochs
    return float(schedule((step // steps_per_epoch) / epochs))
