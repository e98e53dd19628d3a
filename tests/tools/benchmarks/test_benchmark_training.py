import json
from pathlib import Path

import pytest
import torch

from tools.benchmarks.benchmark_training import BenchmarkSettings as Settings
from tools.benchmarks.benchmark_training import main, share_waited, summarise
from tools.benchmarks.reference_moco import ReferenceMoCo


def test_summary_divides_round_by_round() -> None:
    turns = {"reference": [(4.0, 2.0), (6.0, 2.0)], "moco": [(2.0, 0.5), (2.0, 0.5)], "mochi": [(2.5, 0.0), (2.0, 0.0)]}
    rows = summarise(turns, Settings(images=40, batch_size=16))
    row = rows["moco_vs_reference"]
    assert (row["speedup"], row["low"], row["high"], row["rounds"]) == (2.5, 2.0, 3.0, 2)
    assert row["images_per_s"] == 16.0, "32 of 40 images are in full batches"
    assert (row["data_wait_share"], row["reference_data_wait_share"]) == (0.25, 0.4)
    assert rows["mochi_vs_moco"]["low"] == 0.8
    assert share_waited([(1.0, 1.0)]) == 1.0


def test_reference_step_moves_both_encoders_and_queues_its_keys() -> None:
    torch.manual_seed(0)
    moco = ReferenceMoCo("resnet18", 12)
    before = [moco.encoder_q.fc[2].weight.clone(), moco.encoder_k.fc[2].weight.clone(), moco.queue.clone()]
    views = torch.randn(2, 8, 3, 32, 32)
    moco.take_step(views[0], views[1])
    moco.take_step(views[0][:4], views[1][:4])
    assert not torch.equal(moco.encoder_q.fc[2].weight, before[0])
    drift = (moco.encoder_k.fc[2].weight - before[1]).norm() / (moco.encoder_q.fc[2].weight - before[0]).norm()
    assert 0 < drift < 0.01, "the key encoder follows with momentum 0.999"
    assert moco.place == 0 and not torch.equal(moco.queue, before[2])
    torch.testing.assert_close(moco.queue.norm(dim=0), torch.ones(12))


@pytest.mark.slow
def test_benchmark_runs_both_and_writes_its_rows(tmp_path: Path) -> None:
    path = tmp_path / "training.json"
    sizes = ["images=8", "batch_size=4", "crop_px=32", "arch=resnet18", "rounds=2", "queue_len=64", "n=16", "s=8"]
    main([f"json={path}", "s_prime=4", "device=cpu", *sizes])
    table = json.loads(path.read_text())
    assert list(table["rows"]) == ["moco_vs_reference", "mochi_vs_moco"]
    for row in table["rows"].values():
        assert 0 < row["low"] <= row["speedup"] <= row["high"] and row["rounds"] == 2
        assert 0 <= row["data_wait_share"] < 1
    with pytest.raises(ValueError, match="images=2: expected at least batch_size=4"):
        main(["images=2", "batch_size=4", "device=cpu"])
