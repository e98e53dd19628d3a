"""Learning rates as pure functions of training progress, computed by fvcore's schedulers."""

from fvcore.common.param_scheduler import (
    CosineParamScheduler,
    LinearParamScheduler,
    MultiStepParamScheduler,
    ParamScheduler,
)

from pretrain.config import OptimizerConfig

DROP = 0.1
"""Factor of the step schedule at each milestone (facebookresearch/moco, main_moco.py)."""
SCHEDULES = ("cosine", "linear", "step")
LR_RULES = ("given", "linear", "sqrt")


def scale_rate(settings: OptimizerConfig, batch_size: int) -> float:
    """Return the peak learning rate at `batch_size`, by `lr_rule` from `lr` at a batch of `lr_batch`."""
    power = {"given": 0.0, "linear": 1.0, "sqrt": 0.5}[settings.lr_rule]
    return float(settings.lr * (batch_size / settings.lr_batch) ** power)


def build_schedule(settings: OptimizerConfig, batch_size: int) -> ParamScheduler:
    """Return the learning rate as a function of progress in [0, 1), without the warm-up."""
    lr = scale_rate(settings, batch_size)
    if settings.schedule == "cosine":
        cosine: ParamScheduler = CosineParamScheduler(lr, 0.0)
        return cosine
    if settings.schedule == "linear":
        straight: ParamScheduler = LinearParamScheduler(lr, 0.0)
        return straight
    values = [lr * DROP**power for power in range(len(settings.milestones) + 1)]
    # fvcore takes milestones in updates; with a million updates, fractions are exact to 1e-6.
    resolution = 10**6
    marks = [round(share * resolution) for share in settings.milestones]
    steps: ParamScheduler = MultiStepParamScheduler(values, num_updates=resolution, milestones=marks)
    return steps


def find_rate(schedule: ParamScheduler, settings: OptimizerConfig, *, step: int, steps: int, epochs: int) -> float:
    """Return the rate of `step` of `steps`, updated per epoch as in the reference, or every step with `per_step`.

    Over the first W = `warmup_steps` steps the rate rises linearly, lr (step + 1) / W (Goyal et al., arXiv 1706.02677,
    section 2.2). With `per_step` a cosine or linear schedule starts when the warm-up ends and spans the remaining steps
    (facebookresearch/moco-v3, main_moco.py); the drops of a step schedule are not shifted.
    """
    warmup = settings.warmup_steps
    ramp = min(1.0, (step + 1) / warmup) if warmup else 1.0
    if not settings.per_step:
        steps_per_epoch = steps // epochs
        return ramp * float(schedule((step // steps_per_epoch) / epochs))
    begin = 0 if settings.schedule == "step" else min(warmup, steps - 1)
    return ramp * float(schedule(max(0, step - begin) / (steps - begin)))
