"""Supervised pretraining is cross-entropy on the same data path, resumes exactly and converts like any other method."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pretrain.config import DataConfig, ModelConfig, OptimizerConfig, PretrainConfig, RunConfig
from pretrain.config_checks import check_config
from pretrain.input.images import BrokenImageError
from pretrain.methods import build_method
from pretrain.runtime.checkpoint import read_content
from pretrain.runtime.randomness import make_generators
from pretrain.runtime.settings import SettingsError, read_settings
from pretrain.runtime.stopping import StopFlag, YieldRequested
from pretrain.supervised import Supervised
from pretrain.train import train
from transfer.weights.backbone import read_backbone
from transfer.weights.convert import convert

CLASSES = ("dark", "light", "striped")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Grey 64 px images of classes that are easy to separate."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for label, name in enumerate(CLASSES):
        folder = root / "train" / name
        folder.mkdir(parents=True)
        for number in range(8):
            pixels = rng.integers(0, 60, (64, 64)) + (0, 180, 0)[label]
            pixels[:, ::8] += 180 * (name == "striped")
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.JPEG")
    return root


def make_config(images: Path, out: Path, name: str = "adamw", **run: object) -> PretrainConfig:
    rate = {"sgd": 0.02, "adamw": 1e-3, "lars": 2.0}[name]
    return PretrainConfig(
        data=DataConfig(root=str(images), crop_px=64, workers=0, min_scale=0.4, augmentation="moco_v2_no_blur"),
        model=ModelConfig(arch="resnet18", method="supervised"),
        optimizer=OptimizerConfig(name=name, lr=rate, warmup_steps=2, per_step=True),
        run=RunConfig(**{"out": str(out), "epochs": 2, "batch_size": 12, "log_every_steps": 1, **run}),
    )


def classify(model: Supervised, label: torch.Tensor):
    torch.manual_seed(1)
    views = torch.randn(4, 3, 32, 32), torch.randn(4, 3, 32, 32)
    generators = make_generators(0, 0, torch.device("cpu"))
    return views, model(*views, torch.arange(4), label, generators=generators, mixing_on=False)


def test_loss_is_cross_entropy_of_the_first_view_and_hits_are_top_1() -> None:
    torch.manual_seed(0)
    model = Supervised(ModelConfig(arch="resnet18"), classes=5).train()
    label = torch.tensor([0, 3, 4, 3])
    (im_q, _), (output, keys) = classify(model, label)
    scores = model.encoder_q(im_q).double().tolist()
    expected = [
        math.log(sum(math.exp(value) for value in row)) - row[wanted]
        for row, wanted in zip(scores, label.tolist(), strict=True)
    ]
    assert keys is None
    assert output.loss.item() == pytest.approx(sum(expected) / 4, rel=1e-5)
    assert output.hits.tolist() == [row.index(max(row)) == wanted for row, wanted in zip(scores, label, strict=True)]
    assert torch.equal(output.hits, output.hits_with_mixes)


def test_equal_scores_cost_the_logarithm_of_the_number_of_classes() -> None:
    model = Supervised(ModelConfig(arch="resnet18"), classes=7)
    torch.nn.init.zeros_(model.encoder_q.fc.weight)
    torch.nn.init.zeros_(model.encoder_q.fc.bias)
    _, (output, _) = classify(model, torch.tensor([0, 6, 2, 2]))
    assert output.loss.item() == pytest.approx(math.log(7), rel=1e-6)


def test_classifier_has_the_classes_of_the_training_set_and_no_projection_head(images: Path, tmp_path: Path) -> None:
    config = make_config(images, tmp_path)
    assert build_method(config).encoder_q.fc.out_features == len(CLASSES)
    listed = tmp_path / "two.txt"
    listed.write_text("dark\nstriped\n")
    fewer = replace(config, data=replace(config.data, class_list=str(listed)))
    assert build_method(fewer).encoder_q.fc.out_features == 2
    untrained = replace(config, data=DataConfig(), run=replace(config.run, epochs=0))
    assert build_method(untrained).encoder_q.fc.out_features == config.model.dim


def test_zero_init_residual_starts_every_block_as_its_shortcut() -> None:
    config = PretrainConfig(model=ModelConfig(arch="resnet18", zero_init_residual=True))
    blocks = [block for stage in "1234" for block in build_method(config).encoder_q.get_submodule(f"layer{stage}")]
    assert len(blocks) == 8
    assert all(not block.bn2.weight.any() for block in blocks)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sgd", "adamw", "lars"])
def test_each_optimizer_learns_separable_classes(name: str, images: Path, tmp_path: Path) -> None:
    train(make_config(images, tmp_path, name, epochs=14), StopFlag())
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    last = [line["accuracy"] for line in lines[-6:]]
    assert sum(last) / len(last) > 85, "chance is 33 %"
    assert "queue_age_steps" not in lines[-1]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sgd", "adamw", "lars"])
def test_stopped_run_equals_the_uninterrupted_one_bit_for_bit(name: str, images: Path, tmp_path: Path) -> None:
    whole = make_config(images, tmp_path / "whole", name)
    train(whole, StopFlag())
    stopped = replace(whole, run=replace(whole.run, out=str(tmp_path / "stopped"), checkpoint_steps=1))
    for _ in range(2):
        stop = StopFlag()
        stop.ask("a test")
        with pytest.raises(YieldRequested):
            train(stopped, stop)
    train(stopped, StopFlag())
    first, second = (read_content(tmp_path / folder / "encoder.pt")["state_dict"] for folder in ("whole", "stopped"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.slow
def test_encoder_converts_like_any_other_method(images: Path, tmp_path: Path) -> None:
    config = make_config(images, tmp_path / "run", epochs=1, knn_every_epochs=0, analyse_every_epochs=1)
    encoder = train(config, StopFlag())
    convert(encoder, tmp_path / "backbone.pkl")
    state = read_content(encoder)["state_dict"]
    converted = read_backbone(tmp_path / "backbone.pkl").state
    assert torch.equal(converted["layer4.1.conv2.weight"], state["module.encoder_q.layer4.1.conv2.weight"])
    assert not any(name.startswith("fc") for name in converted)


def test_mixing_without_negatives_is_refused() -> None:
    words = ["run.out=x", "data.root=y", "model.method=supervised", "mixing.n=64", "mixing.s=8"]
    with pytest.raises(SettingsError, match="supervised pretraining has no negatives"):
        check_config(read_settings(PretrainConfig, None, words))


def test_broken_image_is_an_error_as_for_the_other_methods(images: Path, tmp_path: Path) -> None:
    root = tmp_path / "data" / "train" / "one"
    root.mkdir(parents=True)
    for number in range(2):
        (root / f"{number}.JPEG").write_bytes(b"no image")
    config = make_config(tmp_path / "data", tmp_path / "run", batch_size=2)
    with pytest.raises(BrokenImageError, match="cannot be read as an image"):
        train(config, StopFlag())


@pytest.mark.slow
def test_replaced_images_are_counted_in_the_metrics(images: Path, tmp_path: Path) -> None:
    shutil.copytree(images, tmp_path / "data")
    (tmp_path / "data" / "train" / "dark" / "3.JPEG").write_bytes(b"no image")
    config = make_config(tmp_path / "data", tmp_path / "run")
    train(replace(config, data=replace(config.data, skip_broken=True)), StopFlag())
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["broken_images"] == config.run.epochs, "each epoch reads every image once"
