"""Choose a rank's device and precision."""

import re
from pathlib import Path

import torch

from pretrain.config import EngineConfig
from pretrain.runtime import distributed

BF16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16")
"""Flags of x86 processors with bf16 hardware instructions; on others oneDNN emulates bf16."""
CPU_INFO = Path("/proc/cpuinfo")


def choose_device(settings: EngineConfig) -> torch.device:
    """Return the device of this rank; ValueError if CUDA is required but not available."""
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            "engine.device=cuda, but torch sees no GPU; use engine.device=cpu, or run `python -m tools.check_setup` to "
            "find out why"
        )
    if settings.device == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", distributed.local_rank())
    torch.cuda.set_device(device)
    return device


def choose_precision(settings: EngineConfig, device: torch.device) -> torch.dtype:
    """Return the dtype for autocast; float32 means no autocast."""
    name = choose_automatic(device) if settings.precision in ("auto", "fast") else settings.precision
    if settings.precision == "fast" and device.type == "cpu" and computes_in_bf16(CPU_INFO):
        name = "bf16"
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[name]


def choose_automatic(device: torch.device) -> str:
    """Return the precision that `auto` selects on `device`.

    bf16 on CUDA devices with native support (compute capability 8.0). On older ones (V100, T4) torch emulates bf16,
    slower than float32, so fp16 with a gradient scaler is used there.
    """
    if device.type != "cuda":
        return "fp32"
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"


def computes_in_bf16(cpu_info: Path) -> bool:
    """Return whether the processor described in `cpu_info` (Linux) has bf16 instructions; False without that file."""
    text = cpu_info.read_text() if cpu_info.is_file() else ""
    flags = re.search(r"^flags\s*:(.*)$", text, re.MULTILINE)
    return flags is not None and any(name in flags[1].split() for name in BF16_INSTRUCTIONS)
