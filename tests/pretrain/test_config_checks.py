"""Mistakes in the settings are told all at once, before anything starts."""

import pytest

from pretrain.config import MixingConfig, ModelConfig, OptimizerConfig, PretrainConfig, RunConfig
from pretrain.config_checks import check_config
from pretrain.continuation import check_same_recipe
from pretrain.runtime.settings import SettingsError, as_dict, read_settings

GOOD = ["run.out=x", "data.root=y"]


def test_defaults_with_a_folder_and_data_are_fine() -> None:
    check_config(read_settings(PretrainConfig, None, GOOD))


def test_every_mistake_is_told() -> None:
    config = PretrainConfig(
        model=ModelConfig(arch="vgg", temperature=0.0, queue_len=10),
        mixing=MixingConfig(n=20, s=1, synco=(1, 2)),
        optimizer=OptimizerConfig(lr=-1.0, milestones=(1.5,)),
        run=RunConfig(batch_size=1),
    )
    with pytest.raises(SettingsError) as caught:
        check_config(config)
    text = str(caught.value)
    parts = [
        "model.arch: expected one of resnet18",
        "model.temperature",
        "20 hardest negatives of a queue of only 10",
        "mixing.synco: expected six counts",
        "optimizer.lr",
        "optimizer.milestones",
        "run.batch_size: expected 2",
        "run.out: say where",
        "data.root: say where",
    ]
    for part in parts:
        assert part in text


def test_batch_must_divide_over_the_processes() -> None:
    with pytest.raises(SettingsError, match="256 cannot be split evenly over 3 processes"):
        check_config(read_settings(PretrainConfig, None, GOOD), world_size=3)


def test_slices_of_simclrs_batch_are_refused() -> None:
    words = [*GOOD, "model.method=simclr", "engine.max_batch_per_rank=32"]
    with pytest.raises(SettingsError, match="SimCLR's negatives are the images of one pass"):
        check_config(read_settings(PretrainConfig, None, words))
    check_config(read_settings(PretrainConfig, None, words), world_size=8)


def test_groups_of_batch_statistics_need_two_images_each_and_no_sync_bn() -> None:
    words = [*GOOD, "model.bn_groups=8", "model.sync_bn=true", "run.batch_size=8"]
    with pytest.raises(SettingsError, match=r"(?s)8 images make no 8 groups.*model\.sync_bn joins them"):
        check_config(read_settings(PretrainConfig, None, words))
    check_config(read_settings(PretrainConfig, None, [*GOOD, "model.bn_groups=8", "run.batch_size=16"]))


def test_mixes_without_hardest_negatives_are_a_contradiction() -> None:
    with pytest.raises(SettingsError, match=r"mixing\.n: is 0"):
        check_config(read_settings(PretrainConfig, None, [*GOOD, "mixing.s=8"]))


def test_random_initialisation_needs_no_data() -> None:
    check_config(read_settings(PretrainConfig, None, ["run.out=x", "run.epochs=0"]))


def test_other_recipe_is_refused_with_both_values(tmp_path) -> None:
    stored = as_dict(read_settings(PretrainConfig, None, [*GOOD, "mixing.n=64", "run.epochs=10"]))
    config = read_settings(PretrainConfig, None, [*GOOD, "mixing.n=32", "run.epochs=20", "engine.threads=2"])
    with pytest.raises(SettingsError) as caught:
        check_same_recipe(stored, config, tmp_path / "encoder.pt")
    assert "mixing.n: 64 there, 32 asked for" in str(caught.value)
    assert "run.epochs: 10 there, 20 asked for" in str(caught.value)
    assert "threads" not in str(caught.value)
