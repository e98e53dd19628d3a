import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

from pretrain.monitoring.knn_vote import classify_knn, knn_scores
from pretrain.runtime.command_line import run_command
from pretrain.runtime.machine import PROJECT_ROOT
from pretrain.runtime.settings import read_settings
from tools import classify_knn as command
from tools.digits.layouts import write_classes
from tools.digits.scenes import load_pools
from transfer.metrics.bootstrap import read_draws
from transfer.probes.features import list_deviations
from transfer.probes.knn_run import PROTOCOLS, KnnConfig, check_knn_config

CONFIGS = PROJECT_ROOT / "configs" / "transfer"


def score_slowly(query: np.ndarray, bank: np.ndarray, labels: list[int], k: int, temperature: float) -> list[float]:
    similarity = [float(query @ row / np.linalg.norm(query) / np.linalg.norm(row)) for row in bank]
    nearest = sorted(range(len(bank)), key=lambda index: -similarity[index])[:k]
    scores = [0.0] * (max(labels) + 1)
    for index in nearest:
        scores[labels[index]] += math.exp(similarity[index] / temperature)
    return scores


@pytest.mark.parametrize("k", [1, 4, 15, 40])
def test_scores_equal_the_slow_vote_in_float64(k: int) -> None:
    rng = np.random.default_rng(0)
    bank, queries = rng.standard_normal((15, 5)), rng.standard_normal((6, 5))
    labels = [int(label) for label in rng.integers(0, 3, 15)]
    labels[0] = 2
    arguments = (torch.tensor(queries), torch.tensor(bank), torch.tensor(labels))
    scores = knn_scores(*arguments, k=k, temperature=0.07, classes=3).double().numpy()
    for row, query in enumerate(queries):
        slow = np.array(score_slowly(query, bank, labels, k, 0.07))
        assert np.allclose(scores[row] / scores[row].sum(), slow / slow.sum(), atol=1e-5)
    predicted = classify_knn(*arguments, k=k, temperature=0.07, chunk=4)
    assert predicted.tolist() == scores.argmax(1).tolist()


def test_a_near_neighbour_outvotes_many_far_ones() -> None:
    bank = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0]])
    labels = torch.tensor([0, 1, 1, 1])
    query = torch.tensor([[1.0, 0.3]])
    assert classify_knn(query, bank, labels, k=4, temperature=0.07).item() == 0
    assert classify_knn(query, bank, labels, k=4, temperature=100.0).item() == 1


@pytest.mark.parametrize("name", ["knn_in1k", "knn_digits"])
def test_config_is_its_named_protocol(name: str) -> None:
    config = read_settings(KnnConfig, CONFIGS / f"{name}.yaml", ["out=o", "data=d"])
    check_knn_config(config)
    assert list_deviations(PROTOCOLS, config) == []


def test_mistakes_are_gathered() -> None:
    with pytest.raises(ValueError, match=r"(?s)out:.*data:.*k:.*temperature:"):
        check_knn_config(KnnConfig(k=0, temperature=0.0))
    with pytest.raises(ValueError, match="expected one of knn-in1k, knn-digits"):
        list_deviations(PROTOCOLS, KnnConfig(protocol="x"))


def test_command_writes_the_accuracy_in_percent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pools = load_pools(0)
    for split, count in (("train", 40), ("val", 20)):
        write_classes(
            tmp_path / "images" / split, pools["train"], count, 48, lambda _, index: np.random.default_rng(index)
        )
    torch.manual_seed(0)
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "r18.pth")
    words = [str(CONFIGS / "knn_digits.yaml"), str(tmp_path / "r18.pth"), f"data={tmp_path / 'images'}"]
    words += [f"out={tmp_path / 'out'}", "train_images=0", "val_images=0", "crop_px=32", "resize_px=36", "k=1"]
    assert run_command(command.main, "", words) == 0
    result = json.loads((tmp_path / "out" / "metrics.json").read_text())
    # Every val image is also a training image, so that its nearest neighbour is itself.
    assert result["metrics"] == {"top1": 100.0}
    draws = read_draws(tmp_path / "out")["top1"]
    assert (draws.value, draws.images, set(draws.values)) == (100.0, 20, {100.0})
    assert result["details"]["bootstrap"]["top1"]["low"] == 100.0
    assert result["protocol"] == "knn-digits"
    assert result["details"]["per_class"]["zero"] == 100.0
    assert run_command(command.main, "", [*words, "workers=0"]) == 0
    assert run_command(command.main, "", [*words, "k=2"]) == 2
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "r18.pth")
    assert run_command(command.main, "", words) == 2
    said = capsys.readouterr().err
    assert "holds the result of another run; choose a new out= or delete the folder. k was 1, is 2" in said
    assert "weights_sha256 was" in said
