import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from transfer.detection.protocols import read_protocol
from transfer.detection.trainer import AccumulatingTrainer, CurveWriter, is_due, make_trainer

from detectron2.utils.events import EventStorage  # isort: skip


class Regression(nn.Module):
    """Two losses of a linear model: means over the batch, as a detector's are over its images."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 1)
        with torch.no_grad():
            self.layer.weight.copy_(torch.tensor([[0.5, -1.0, 2.0]]))
            self.layer.bias.zero_()

    def forward(self, batch: torch.Tensor) -> dict[str, torch.Tensor]:
        value = self.layer(batch)
        return {"square": (value**2).mean(), "absolute": value.abs().mean()}


def train(parts: int, batches: list[torch.Tensor]) -> tuple[torch.Tensor, dict[str, Any]]:
    model = Regression()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    trainer = AccumulatingTrainer(model, batches, optimizer, parts=parts, amp=False)
    trainer.train(0, len(batches) // parts)
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()]), trainer.storage.latest()


def test_parts_of_a_batch_make_the_same_step_as_the_whole_batch() -> None:
    examples = torch.randn(16, 3, generator=torch.Generator().manual_seed(0))
    whole, logged = train(1, list(examples.split(8)))
    in_parts, logged_in_parts = train(4, list(examples.split(2)))
    torch.testing.assert_close(in_parts, whole, rtol=1e-5, atol=1e-6)
    assert logged_in_parts["total_loss"][0] == pytest.approx(logged["total_loss"][0], rel=1e-5)


def test_mixed_precision_on_a_cpu_is_a_sentence_before_the_first_step() -> None:
    cfg = read_protocol("voc-c4-digits@moco")
    cfg.MODEL.DEVICE, cfg.SOLVER.AMP.ENABLED = "cpu", True
    with pytest.raises(ValueError, match=r"SOLVER\.AMP\.ENABLED needs a CUDA device .*; set it to False"):
        make_trainer(cfg, Regression(), [], None)


def test_a_step_in_bf16_on_a_cpu_is_the_step_in_float32_up_to_bf16s_rounding() -> None:
    batches = list(torch.randn(16, 3, generator=torch.Generator().manual_seed(0)).split(8))
    states = []
    for cpu_bf16 in (False, True):
        model = Regression()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        AccumulatingTrainer(model, batches, optimizer, parts=1, amp=False, cpu_bf16=cpu_bf16).train(0, 1)
        states.append(torch.cat([parameter.detach().flatten() for parameter in model.parameters()]))
        assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    torch.testing.assert_close(states[1], states[0], rtol=0.02, atol=0.02)
    assert not torch.equal(states[1], states[0])


def test_bf16_on_a_cpu_is_taken_where_the_processor_computes_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = read_protocol("voc-c4-digits@moco")
    cfg.MODEL.DEVICE = "cpu"
    model = Regression()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for flags, wanted in (("avx512_bf16", True), ("avx512f", False)):
        (tmp_path / flags).write_text(f"flags : sse {flags}\n")
        monkeypatch.setattr("transfer.detection.trainer.CPU_INFO", tmp_path / flags)
        assert getattr(make_trainer(cfg, model, [], optimizer), "casts", False) is wanted
        cfg.SOLVER.CPU_BF16 = True
        assert isinstance(make_trainer(cfg, model, [], optimizer), AccumulatingTrainer) is wanted


def test_evaluations_follow_each_whole_period_only() -> None:
    assert [done for done in range(10) if is_due(3, done)] == [3, 6, 9]
    assert not any(is_due(0, done) for done in range(10))


def test_curve_forgets_the_lines_after_the_checkpoint_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps({"step": step, "loss": 1.0}) + "\n" for step in (1, 2, 3, 4)))
    with EventStorage(2) as storage:
        writer = CurveWriter(path, first_step=2)
        storage.put_scalars(loss=0.5, broken=float("nan"))
        writer.write()
        writer.write()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines == [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 1.0}, {"step": 3, "loss": 0.5}]
