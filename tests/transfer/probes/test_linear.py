import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

from pretrain.input.labelled_images import LabelledImages, centre_crop, find_images, take_evenly
from pretrain.runtime.command_line import run_command
from pretrain.runtime.machine import PROJECT_ROOT
from pretrain.runtime.settings import SettingsError, read_settings
from pretrain.runtime.stopping import StopFlag, YieldRequested
from tests.making.probe_inputs import save_resnet18, write_digit_classes
from tools import train_linear
from transfer.metrics.bootstrap import read_draws
from transfer.probes import linear_heads
from transfer.probes.features import extract_features, find_finished, find_split, list_deviations
from transfer.probes.linear_heads import (
    PROTOCOLS,
    Accuracy,
    Heads,
    LinearConfig,
    build_optimizer,
    check_linear_config,
    fit_standardiser,
    list_rates,
    rate_factor,
    set_rates,
    summarise_accuracy,
)
from transfer.probes.linear_run import LinearTraining
from transfer.weights.frozen_backbone import FrozenBackbone

CONFIGS = PROJECT_ROOT / "configs" / "transfer"
SMALL = {"crop_px": 32, "resize_px": 36, "workers": 0, "device": "cpu", "batch_size": 20, "epochs": 3, "lr": 0.1}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digit_classes(tmp_path_factory.mktemp("images"), train=50, val=20)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_resnet18(tmp_path_factory.mktemp("weights"))


def make_config(data: Path, out: Path, **changes: object) -> LinearConfig:
    return LinearConfig(**{"data": str(data), "out": str(out), **SMALL, **changes})


def test_limit_takes_every_class_evenly(data: Path) -> None:
    folder = take_evenly(find_images(data, "train"), 23)
    assert np.bincount(folder.labels).tolist() == [3, 3, 3, 2, 2, 2, 2, 2, 2, 2]
    assert all(folder.path(index).exists() for index in range(23))
    with pytest.raises(ValueError, match="cannot show each of 10 classes"):
        take_evenly(folder, 9)


def test_imagenet_folder_below_the_root_is_found(data: Path, tmp_path: Path) -> None:
    (tmp_path / "imagenet").symlink_to(data)
    assert len(find_images(tmp_path, "val")) == 20


def test_list_of_images_is_taken_and_a_missing_one_named(data: Path, tmp_path: Path) -> None:
    folder = find_images(data, "train")
    names = [folder.path(index).name for index in (40, 3, 17)]
    (tmp_path / "list.txt").write_text("\n".join(names) + "\n")
    config = make_config(data, tmp_path, train_list=str(tmp_path / "list.txt"), train_images=10)
    taken = find_split(config, "train")
    assert {taken.path(index).name for index in range(len(taken))} == set(names)
    (tmp_path / "list.txt").write_text("n01440764_7.JPEG\n")
    with pytest.raises(ValueError, match=r"1 of 1 images are not in .*e\.g\. n01440764_7\.JPEG"):
        find_split(config, "train")


def test_random_crops_depend_on_seed_epoch_and_image_alone(data: Path) -> None:
    source = find_images(data, "train")
    images = LabelledImages(source, crop_px=32, resize_px=36, random_seed=5)
    again = LabelledImages(source, crop_px=32, resize_px=36, random_seed=5)
    assert torch.equal(images.__getitems__([(1, 3), (1, 4)])["image"][1:], again.__getitems__([(1, 4)])["image"])
    assert not torch.equal(images.__getitems__([(2, 4)])["image"], again.__getitems__([(1, 4)])["image"])


def test_features_are_those_of_the_model_on_the_centre_crops(data: Path, weights: Path, tmp_path: Path) -> None:
    config = make_config(data, tmp_path, feature_batch=7)
    model = FrozenBackbone(weights, torch.device("cpu"))
    found = extract_features(model, config, "val", tmp_path)
    pixels = centre_crop(find_split(config, "val").read(11), 36, 32)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    image = ((torch.from_numpy(pixels) / 255 - mean) / std).permute(2, 0, 1)[None]
    reference = torchvision.models.resnet18()
    reference.load_state_dict(torch.load(weights, weights_only=True))
    reference.fc = torch.nn.Identity()
    assert (len(found.values), found.values.width) == (20, 512)
    assert torch.allclose(found.values[11:12][0], reference.eval()(image)[0], rtol=1e-4, atol=1e-4)


def test_frozen_proof_counts_all_tensors_and_sees_a_moved_batch_statistic(weights: Path) -> None:
    model = FrozenBackbone(weights, torch.device("cpu"))
    assert model.prove_frozen() == len(model.backbone.state) == 120
    assert not any(parameter.requires_grad for parameter in model.model.parameters())
    model.model.bn1.running_mean[3] += 1e-7
    with pytest.raises(RuntimeError, match="running_mean"):
        model.prove_frozen()


def test_heads_of_a_sweep_learn_as_if_each_were_alone() -> None:
    torch.manual_seed(1)
    x, labels = torch.randn(30, 8), torch.randint(0, 3, (30,))
    config = LinearConfig(lr=0.5, sweep=(2.0,), epochs=4, milestones=(2,))
    together = Heads(8, 3, (0.5, 2.0), seed=3)
    alone = Heads(8, 3, (2.0,), seed=3)
    for heads in (together, alone):
        optimizer = build_optimizer(heads, config)
        for epoch in range(4):
            set_rates(optimizer, heads, rate_factor(config, epoch))
            optimizer.zero_grad()
            heads.loss(x, labels).backward()
            optimizer.step()
    assert torch.allclose(together.weight[1], alone.weight[0])
    assert not torch.allclose(together.weight[0], alone.weight[0])
    assert together.count_hits(x, labels).shape == (2,)


def test_one_step_equals_the_gradient_of_softmax_regression_in_float64() -> None:
    torch.manual_seed(2)
    x, labels = torch.randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 1])
    heads = Heads(4, 3, (0.7,), seed=0)
    start = heads.weight[0].detach().double().numpy()
    values = x.double().numpy()
    shares = np.exp(values @ start.T)
    shares /= shares.sum(1, keepdims=True)
    expected = start - 0.7 * (shares - np.eye(3)[labels]).T @ values / 6
    optimizer = build_optimizer(heads, LinearConfig())
    heads.loss(x, labels).backward()
    optimizer.step()
    assert np.allclose(heads.weight[0].detach().numpy(), expected, atol=1e-6)


def test_rates_scale_with_the_batch_under_the_linear_rule_and_drop_at_milestones() -> None:
    assert list_rates(LinearConfig(batch_size=512, lr_rule="linear", sweep=(10.0,))) == (60.0, 20.0)
    assert list_rates(LinearConfig(batch_size=512)) == (30.0,)
    config = LinearConfig()
    assert [rate_factor(config, epoch) for epoch in (0, 59, 60, 80, 99)] == pytest.approx([1, 1, 0.1, 0.01, 0.01])


def test_head_starts_as_in_the_reference() -> None:
    heads = Heads(2048, 1000, (30.0,), seed=0)
    assert heads.weight[0].std().item() == pytest.approx(0.01, rel=0.01)
    assert not heads.bias[0].any()


def test_standardised_features_have_mean_0_and_deviation_1(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear_heads, "STATISTICS_ROWS", 33)
    x = torch.randn(100, 3) * torch.tensor([1e-2, 5.0, 0.0]) + 4
    values = fit_standardiser(x)(x)
    assert torch.allclose(values.mean(0), torch.zeros(3), atol=1e-4)
    assert torch.allclose(values.std(0, correction=0), torch.tensor([1.0, 1.0, 0.0]), atol=1e-3)
    expected = (x.double() - x.double().mean(0))[:, :2] / x.double().std(0, correction=0)[:2]
    assert torch.allclose(values[:, :2].double(), expected, atol=1e-3)


def test_summary_gives_last_and_best_of_the_rate_that_ends_best() -> None:
    history = [Accuracy(1, (50.0, 10.0)), Accuracy(2, (70.0, 60.0)), Accuracy(3, (40.0, 55.0))]
    metrics, details = summarise_accuracy(history, (30.0, 10.0))
    assert metrics == {"top1": 55.0, "top1_best": 60.0}
    assert details["lr"] == 10.0
    assert details["rates"][0] == {"lr": 30.0, "top1": 40.0, "top1_best": 70.0, "best_epoch": 2}


@pytest.mark.parametrize(
    "name", ["linear_in1k", "linear_in1k_1pct", "linear_in1k_10pct", "linear_in100", "linear_digits"]
)
def test_config_is_its_named_protocol(name: str) -> None:
    config = read_settings(LinearConfig, CONFIGS / f"{name}.yaml", ["out=o", "data=d"])
    check_linear_config(config)
    assert list_deviations(PROTOCOLS, config) == []
    changed = read_settings(LinearConfig, CONFIGS / f"{name}.yaml", ["lr=7"])
    assert [entry["key"] for entry in list_deviations(PROTOCOLS, changed)] == ["lr"]


def test_mistakes_are_gathered_and_named(tmp_path: Path) -> None:
    config = LinearConfig(epochs=0, standardise=True, lr=-1.0, augment="x", precision="fp8", crop_px=300)
    with pytest.raises(ValueError) as caught:
        check_linear_config(config)
    for word in ("out:", "data:", "epochs:", "standardise", "lr:", "augment:", "precision:", "crop_px=300"):
        assert word in str(caught.value)
    with pytest.raises(SettingsError, match="allowed are"):
        read_settings(LinearConfig, CONFIGS / "linear_in1k.yaml", ["rate=3"])


@pytest.mark.parametrize("augment", ["none", pytest.param("crop_flip", marks=pytest.mark.slow)])
def test_resumed_run_equals_uninterrupted_run(data: Path, weights: Path, tmp_path: Path, augment: str) -> None:
    whole = LinearTraining(make_config(data, tmp_path / "whole", augment=augment), weights, StopFlag()).run()
    config = make_config(data, tmp_path / "parts", augment=augment)
    for _ in range(20):
        stop = StopFlag()
        training = LinearTraining(config, weights, stop)
        # Stop after every step: the flag is set once the features exist.
        training._train_epoch = stop_first(training, stop)  # type: ignore[method-assign]
        try:
            resumed = training.run()
            break
        except YieldRequested:
            continue
    assert resumed.metrics == whole.metrics
    assert resumed.details["curve"] == whole.details["curve"]
    assert whole.details["proved_frozen_tensors"] == 120
    states = [torch.load(tmp_path / name / "linear.pt", weights_only=True)["heads"] for name in ("whole", "parts")]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_backbone_that_moves_in_a_later_epoch_ends_the_run(data: Path, weights: Path, tmp_path: Path) -> None:
    training = LinearTraining(make_config(data, tmp_path, augment="none"), weights, StopFlag())
    train_epoch = training._train_epoch

    def move_in_the_second(*arguments):
        train_epoch(*arguments)
        if training.epoch == 1:
            training.model.model.layer4[1].bn2.num_batches_tracked += 1

    training._train_epoch = move_in_the_second  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match=r"layer4\.1\.bn2\.num_batches_tracked"):
        training.run()
    assert training.epoch == 2
    assert not (tmp_path / "metrics.json").exists()


def stop_first(training: LinearTraining, stop: StopFlag):
    train_epoch = training._train_epoch

    def run(*arguments):
        stop.ask("test")
        return train_epoch(*arguments)

    return run


def test_other_settings_do_not_continue_a_run(data: Path, weights: Path, tmp_path: Path) -> None:
    LinearTraining(make_config(data, tmp_path, augment="none", epochs=1), weights, StopFlag()).run()
    with pytest.raises(ValueError, match="another config"):
        LinearTraining(make_config(data, tmp_path, augment="none", epochs=2), weights, StopFlag()).run()


def test_run_of_an_older_version_goes_on_and_its_result_stands(data: Path, weights: Path, tmp_path: Path) -> None:
    config = make_config(data, tmp_path, augment="none", epochs=1)
    LinearTraining(config, weights, StopFlag()).run()
    state = torch.load(tmp_path / "linear.pt", weights_only=True)
    result = json.loads((tmp_path / "metrics.json").read_text())
    for settings in (state["settings"], result["details"]["config"]):
        del settings["train_list"]
    torch.save(state, tmp_path / "linear.pt")
    (tmp_path / "metrics.json").write_text(json.dumps(result))
    assert find_finished(config, weights) is not None
    with pytest.raises(ValueError, match="train_list was None"):
        find_finished(replace(config, train_list="list.txt"), weights)
    (tmp_path / "metrics.json").unlink()
    again = LinearTraining(config, weights, StopFlag()).run()
    assert again.metrics == result["metrics"]
    with pytest.raises(ValueError, match="another config"):
        LinearTraining(replace(config, lr=7.0), weights, StopFlag()).run()


def test_cached_features_serve_only_the_settings_they_were_taken_with(
    data: Path, weights: Path, tmp_path: Path
) -> None:
    config = make_config(data, tmp_path, augment="none")
    LinearTraining(config, weights, StopFlag())._load_features()
    path = tmp_path / "features" / "train" / "table.json"
    written = path.stat().st_mtime_ns
    LinearTraining(replace(config, lr=7.0), weights, StopFlag())._load_features()
    assert path.stat().st_mtime_ns == written
    _, val = LinearTraining(replace(config, crop_px=24, resize_px=28), weights, StopFlag())._load_features()
    model = FrozenBackbone(weights, torch.device("cpu"))
    fresh = extract_features(model, replace(config, crop_px=24, resize_px=28), "val", tmp_path / "fresh")
    assert torch.equal(val.values[:], fresh.values[:])


def test_command_writes_a_result_once_and_learns(
    data: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(CONFIGS / "linear_digits.yaml"), str(weights), f"out={tmp_path}", f"data={data}", "backbone=random"]
    words += ["crop_px=32", "resize_px=36", "train_images=0", "val_images=0", "batch_size=25", "epochs=30"]
    assert run_command(train_linear.main, "", words) == 0
    result = json.loads((tmp_path / "metrics.json").read_text())
    assert result["backbone"] == "random"
    assert result["metrics"].keys() == {"top1", "top1_best"}
    draws = read_draws(tmp_path)["top1"]
    assert draws.value == pytest.approx(result["metrics"]["top1"], abs=1e-4)
    interval = result["details"]["bootstrap"]["top1"]
    assert interval["low"] <= draws.value <= interval["high"]
    assert "epochs" in {entry["key"] for entry in result["deviations"]}
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == list(range(1, 31))
    written = (tmp_path / "metrics.json").stat().st_mtime_ns
    assert run_command(train_linear.main, "", words) == 0
    assert run_command(train_linear.main, "", [*words, "lr=0.1"]) == 2
    assert (tmp_path / "metrics.json").stat().st_mtime_ns == written
    said = capsys.readouterr()
    assert "top-1" in said.out
    assert "lr was 0.05, is 0.1" in said.err


@pytest.mark.slow
def test_two_ranks_reach_the_accuracy_of_one(data: Path, weights: Path, tmp_path: Path) -> None:
    words = [str(CONFIGS / "linear_digits.yaml"), str(weights), f"data={data}", "epochs=5", "batch_size=20"]
    words += ["crop_px=32", "resize_px=36", "train_images=0", "val_images=0", "device=cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROJECT_ROOT)}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"]
    subprocess.run(
        [*launch, "tools.train_linear", *words, f"out={tmp_path / 'two'}"],
        check=True,
        env=environment,
        cwd=PROJECT_ROOT,
    )
    subprocess.run(
        [sys.executable, "-m", "tools.train_linear", *words, f"out={tmp_path / 'one'}"],
        check=True,
        env=environment,
        cwd=PROJECT_ROOT,
    )
    states = [torch.load(tmp_path / name / "linear.pt", weights_only=True) for name in ("one", "two")]
    for name, tensor in states[0]["heads"].items():
        assert torch.allclose(tensor, states[1]["heads"][name], atol=1e-4)
    results = [json.loads((tmp_path / name / "metrics.json").read_text())["metrics"] for name in ("one", "two")]
    assert results[0] == pytest.approx(results[1], abs=5.1)
