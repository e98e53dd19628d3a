import pytest
import torch

from tests.making.family_checkpoints import make_state
from transfer import detectron2_compat
from transfer.weights.convert import to_detectron2
from transfer.weights.parity import measure_parity, name_implementation, run_detectron2, run_restated, run_torchvision

IMAGE = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("depth", [18, 34, 50])
def test_torchvision_detectron2_and_the_restated_forward_pass_agree(depth: int) -> None:
    state = make_state(depth)
    named = to_detectron2(state, depth)
    with torch.inference_mode():
        ours = run_torchvision(state, depth, IMAGE)
        others = [run_restated(named, IMAGE), *run_detectron2(named, depth, IMAGE)]
    assert len(others) == 3  # restated, FPN's arrangement, C4's
    assert [tuple(ours[name].shape[2:]) for name in ("res2", "res5")] == [(16, 16), (2, 2)]
    for other in others:
        for name, feature in ours.items():
            assert torch.allclose(other[name], feature, rtol=1e-5, atol=1e-6 * float(feature.abs().max()))


def test_one_changed_value_in_any_part_is_seen_and_refused() -> None:
    state = make_state()
    for name in ("conv1.weight", "layer1.0.bn2.bias", "layer2.0.downsample.1.running_mean", "layer4.1.conv2.weight"):
        changed = {**state, name: state[name] + 0.05}
        with pytest.raises(ValueError, match="compute other features"):
            measure_parity(state, to_detectron2(changed, 18), 18)


def test_parity_stops_before_the_first_changed_stage_only() -> None:
    state = make_state()
    with torch.inference_mode():
        ours = run_torchvision(state, 18, IMAGE)
        theirs = run_restated(to_detectron2({**state, "layer3.0.bn1.bias": state["layer3.0.bn1.bias"] + 1}, 18), IMAGE)
    assert [torch.allclose(ours[name], theirs[name]) for name in ours] == [True, True, False, False]


def test_without_detectron2_the_restated_pass_takes_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    state = make_state()
    assert name_implementation().startswith("detectron2 ")
    monkeypatch.setattr(detectron2_compat, "is_installed", lambda: False)
    assert max(measure_parity(state, to_detectron2(state, 18), 18).values()) < 1e-5
    assert "restated" in name_implementation()
