"""`auto` selects a precision that the device supports natively, not one that it emulates."""

from pathlib import Path

import pytest
import torch

from pretrain.config import EngineConfig
from pretrain.runtime.device import choose_precision, computes_in_bf16

CUDA, CPU = torch.device("cuda"), torch.device("cpu")


@pytest.mark.parametrize(("in_hardware", "expected"), [(True, torch.bfloat16), (False, torch.float16)])
def test_auto_on_cuda_requires_native_bf16(
    in_hardware: bool, expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a V100 or T4 torch reports bf16 support unless emulation is excluded."""
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or in_hardware
    )
    assert choose_precision(EngineConfig(), CUDA) == expected


def test_auto_on_a_cpu_is_float32_and_a_given_precision_is_kept() -> None:
    assert choose_precision(EngineConfig(), CPU) == torch.float32
    assert choose_precision(EngineConfig(precision="bf16"), CPU) == torch.bfloat16
    assert choose_precision(EngineConfig(precision="fp16"), CUDA) == torch.float16


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("flags\t\t: fpu sse avx512f avx512_bf16 amx_tile", True),
        ("flags\t\t: fpu amx_bf16", True),
        ("flags\t\t: fpu avx2 avx512f avx512_bf16x", False),
        ("vendor_id\t: avx512_bf16", False),
        ("", False),
    ],
)
def test_fast_is_bf16_on_a_processor_with_instructions_for_it_and_else_as_auto(
    flags: str, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\n{flags}\n")
    assert computes_in_bf16(tmp_path / "cpuinfo") is expected
    monkeypatch.setattr("pretrain.runtime.device.CPU_INFO", tmp_path / "cpuinfo")
    assert choose_precision(EngineConfig(precision="fast"), CPU) == (torch.bfloat16 if expected else torch.float32)
    monkeypatch.setattr("pretrain.runtime.device.CPU_INFO", tmp_path / "none")
    assert choose_precision(EngineConfig(precision="fast"), CPU) == torch.float32
