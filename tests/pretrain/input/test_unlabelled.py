"""Pretraining works on a flat folder without classes; features that need classes are refused before the first step."""

from pathlib import Path

import pytest

from pretrain.config import DataConfig, MixingConfig, ModelConfig, PretrainConfig, RunConfig
from pretrain.input.images import list_either
from pretrain.input.loader import open_source, refuse_unlabelled
from pretrain.input.packed import Packing, open_cache, pack_images
from pretrain.runtime.checkpoint import read_content
from pretrain.runtime.stopping import StopFlag
from pretrain.train import train
from tests.making.imagenet_like import encode, make_photo, write_images


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for number in range(8):
        (tmp_path / f"IMG_{number}.JPG").write_bytes(encode(make_photo(number)))
    return tmp_path


def make_config(root: Path, **run: object) -> PretrainConfig:
    return PretrainConfig(
        data=DataConfig(root=str(root), crop_px=32, workers=0),
        model=ModelConfig(arch="resnet18", dim=8, queue_len=8, bn_groups=2),
        mixing=MixingConfig(n=4, s=2, s_prime=2),
        run=RunConfig(out=str(root / ".run"), epochs=1, batch_size=4, **run),
    )


@pytest.mark.slow
def test_flat_folder_pretrains_without_labels(photos: Path) -> None:
    content = read_content(train(make_config(photos), StopFlag()))
    assert content["step"] == 2
    newest = read_content(photos / ".run" / "checkpoints" / "checkpoint_00000002.pt")
    assert newest["state_dict"]["module.queue_labels"].tolist() == [-1] * 8
    assert sorted(newest["state_dict"]["module.queue_indices"].tolist()) == list(range(8))


@pytest.mark.parametrize("where", ["", "train"])
def test_root_or_its_train_folder_may_be_flat(photos: Path, where: str) -> None:
    if where:
        (photos / where).mkdir()
        for path in photos.glob("*.JPG"):
            path.rename(photos / where / path.name)
    source = open_source(DataConfig(root=str(photos)))
    assert (len(source), set(source.labels.tolist())) == (8, {-1})


def test_features_that_need_classes_are_refused_by_name(photos: Path) -> None:
    source = open_source(DataConfig(root=str(photos)))
    config = make_config(photos, knn_every_epochs=1)
    with pytest.raises(ValueError, match=r"no classes, which run\.knn_every_epochs needs; turn it off"):
        refuse_unlabelled(config, source)
    with pytest.raises(ValueError, match="these images have no classes"):
        train(make_config(photos, analyse_every_epochs=1), StopFlag())
    refuse_unlabelled(make_config(photos), source)


def test_a_folder_of_class_folders_is_not_taken_for_a_flat_one(tmp_path: Path) -> None:
    root = write_images(tmp_path, 1)
    with pytest.raises(ValueError, match=r"train/train: no such folder|no such folder"):
        open_source(DataConfig(root=str(root / "train")))
    assert list_either(root / "train").classes


def test_cache_of_unlabelled_images_is_unlabelled(photos: Path) -> None:
    list(pack_images(list_either(photos), photos / ".cache", Packing()))
    cache = open_cache(photos / ".cache")
    assert (len(cache), cache.classes, set(cache.labels.tolist())) == (8, (), {-1})
