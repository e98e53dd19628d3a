"""Pair products: the slices, and the Triton kernel, which Triton's interpreter runs without a GPU."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import pretrain.kernels.pair_dots
from pretrain.config import MixingConfig
from pretrain.kernels.pair_dots import choose_form, dot_pairs
from pretrain.loss import contrastive_loss, plain_loss
from pretrain.runtime.machine import PROJECT_ROOT
from tests.pretrain.test_mixing import unit

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="torch without CUDA has no Triton")

INTERPRETED = """
import torch
from pretrain.kernels.pair_kernel import dot_pairs_in_registers
for rows, dim, count, kind in [(50, 100, 37, torch.float32), (9, 128, 16, torch.float64), (5, 1, 3, torch.float32)]:
    n = torch.randn(rows, dim, dtype=kind)
    first, second = torch.randint(rows, (2, count))
    torch.testing.assert_close(dot_pairs_in_registers(n, first, second), (n[first] * n[second]).sum(1))
assert dot_pairs_in_registers(n, first[:0], second[:0]).shape == (0,)
try:
    dot_pairs_in_registers(torch.zeros(2, 4096), first[:1] * 0, second[:1] * 0)
except ValueError as error:
    print(error)
"""
COMPILED = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from pretrain.kernels.pair_kernel import pair_kernel
pointers = {"n": "*fp32", "first": "*i64", "second": "*i64", "dots": "*fp32"}
source = ASTSource(pair_kernel, {**pointers, "count": "i32", "D": "i32", "WIDTH": "constexpr"}, {"WIDTH": 128})
for capability in (80, 90):
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32))
    print(capability, len(compiled.asm["cubin"]) > 1000)
"""


def run_script(script: str, tmp_path: Path, **variables: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(PROJECT_ROOT), "TRITON_CACHE_DIR": str(tmp_path)} | variables
    return subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    ).stdout


def test_slices_of_the_pair_products_are_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    n, first, second = unit(30, 5, 0), torch.randint(30, (7, 11)), torch.randint(30, (7, 11))
    monkeypatch.setattr(pretrain.kernels.pair_dots, "SLICE_BYTES", 1000)
    torch.testing.assert_close(dot_pairs(n, first, second), (n[first] * n[second]).sum(dim=2))


@pytest.mark.slow
@needs_triton
def test_kernel_equals_the_products_under_tritons_interpreter(tmp_path: Path) -> None:
    said = run_script(INTERPRETED, tmp_path, TRITON_INTERPRET="1")
    assert said.startswith("pair products: expected rows of width 2048 or less, got 4096")


@pytest.mark.slow
@needs_triton
def test_kernel_compiles_for_absent_gpus(tmp_path: Path) -> None:
    assert run_script(COMPILED, tmp_path).split() == ["80", "True", "90", "True"]


@needs_triton
def test_device_selects_the_implementation() -> None:
    assert choose_form("cpu") is pretrain.kernels.pair_dots.dot_pairs_in_slices
    assert choose_form("cuda").__module__ == "pretrain.kernels.pair_kernel"


def test_cuda_without_triton_falls_back_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "pretrain.kernels.pair_kernel", None)  # importing it raises ImportError
    assert choose_form.__wrapped__("cuda") is pretrain.kernels.pair_dots.dot_pairs_in_slices
    assert "Triton is not available" in caplog.text


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_loss_on_cuda_equals_the_plain_form() -> None:
    q, k, n = (unit(rows, 128, seed).float().cuda() for rows, seed in ((32, 0), (32, 1), (4096, 2)))
    first, second = torch.randint(4096, (2, 32, 1000), device="cuda")
    expected = dot_pairs(n.cpu(), first.cpu(), second.cpu())
    torch.testing.assert_close(dot_pairs(n, first, second).cpu(), expected, rtol=1e-5, atol=1e-6)
    config = MixingConfig(n=256, s=512, s_prime=256)

    def differentiate(form: str) -> tuple[torch.Tensor, torch.Tensor]:
        leaf, generator = q.clone().requires_grad_(), torch.Generator("cuda").manual_seed(3)
        if form == "fused":
            loss = contrastive_loss(leaf, k, n, temperature=0.2, mixing=config, generator=generator).loss
        else:
            loss = plain_loss(leaf, k, n, 0.2, config, generator, None).loss
        loss.backward()
        assert leaf.grad is not None
        return loss.detach(), leaf.grad

    (fused, slope), (plain, plain_slope) = differentiate("fused"), differentiate("plain")
    torch.testing.assert_close(fused, plain, rtol=1e-5, atol=0)
    assert (slope - plain_slope).norm() <= 2e-4 * plain_slope.norm()
