"""`auto` is a precision that the device computes in, not one that it emulates."""

import pytest
import torch

from pretrain.config import EngineConfig
from pretrain.runtime.device import choose_precision

CUDA, CPU = torch.device("cuda"), torch.device("cpu")


@pytest.mark.parametrize(("in_hardware", "expected"), [(True, torch.bfloat16), (False, torch.float16)])
def test_auto_on_cuda_asks_for_bf16_in_hardware(
    in_hardware: bool, expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A V100 or T4 answers True unless emulation is left out of the question."""
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or in_hardware
    )
    assert choose_precision(EngineConfig(), CUDA) == expected


def test_auto_on_a_cpu_is_float32_and_a_given_precision_stays() -> None:
    assert choose_precision(EngineConfig(), CPU) == torch.float32
    assert choose_precision(EngineConfig(precision="bf16"), CPU) == torch.bfloat16
    assert choose_precision(EngineConfig(precision="fp16"), CUDA) == torch.float16
