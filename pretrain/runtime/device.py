"""Choose the device and the precision that a rank trains with."""

import torch

from pretrain.config import EngineConfig
from pretrain.runtime import distributed


def choose_device(settings: EngineConfig) -> torch.device:
    """Return the device of this rank."""
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            "engine.device=cuda, but torch sees no GPU; use engine.device=cpu, or see what `mochi doctor` finds"
        )
    if settings.device == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", distributed.local_rank())
    torch.cuda.set_device(device)
    return device


def choose_precision(settings: EngineConfig, device: torch.device) -> torch.dtype:
    """Return the autocast type; float32 stands for none."""
    name = settings.precision if settings.precision != "auto" else {"cuda": "bf16"}.get(device.type, "fp32")
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[name]
