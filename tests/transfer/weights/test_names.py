import pytest
import torch

from tests.making.family_checkpoints import make_state
from transfer.weights.resnet_names import (
    DEPTHS,
    detectron2_name,
    expected_shapes,
    find_depth,
    find_key_mistakes,
    find_value_mistakes,
    name_table,
    torchvision_names,
)


def test_a_resnet_50_has_318_tensors_and_265_without_batch_counters() -> None:
    names = expected_shapes(50)
    assert len(names) == 318
    assert len([name for name in names if not name.endswith("num_batches_tracked")]) == 265


@pytest.mark.parametrize("depth", DEPTHS)
def test_the_table_is_one_to_one_and_its_inverse_leads_back(depth: int) -> None:
    table = name_table(depth)
    assert len(set(table.values())) == len(expected_shapes(depth))
    assert all(torchvision_names()[theirs] == ours for ours, theirs in table.items())
    assert find_depth(table) == depth


def test_names_of_every_kind_of_layer_are_detectron2s() -> None:
    assert detectron2_name("conv1.weight") == "stem.conv1.weight"
    assert detectron2_name("bn1.running_var") == "stem.conv1.norm.running_var"
    assert detectron2_name("layer3.5.conv2.weight") == "res4.5.conv2.weight"
    assert detectron2_name("layer3.22.bn3.bias") == "res4.22.conv3.norm.bias"
    assert detectron2_name("layer4.0.downsample.0.weight") == "res5.0.shortcut.weight"
    assert detectron2_name("layer1.0.downsample.1.running_mean") == "res2.0.shortcut.norm.running_mean"


@pytest.mark.parametrize("name", ["fc.weight", "layer1.0.se.weight", "encoder.conv1.weight"])
def test_a_name_outside_the_table_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="not a tensor of a torchvision ResNet"):
        detectron2_name(name)


def test_depth_is_found_by_the_nearest_key_set_and_mistakes_are_named() -> None:
    state = dict(make_state(34))
    del state["layer3.5.bn2.bias"]
    assert find_depth(state) == 34
    assert find_key_mistakes(state, 34) == ["missing: layer3.5.bn2.bias"]
    assert find_key_mistakes(make_state(34), 34) == []


def test_not_a_number_and_negative_variances_are_found() -> None:
    state = {"bn1.bias": torch.tensor([0.0, torch.inf]), "bn1.running_var": torch.tensor([-1e-3]), "x": torch.ones(2)}
    assert find_value_mistakes(state) == [
        "bn1.bias: holds NaN or infinity",
        "bn1.running_var: negative, which no training writes",
    ]
