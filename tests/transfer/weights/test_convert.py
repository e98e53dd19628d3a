import pickle
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from pretrain.runtime.storage import digest_file
from tests.making.family_checkpoints import MAKERS, buffers, make_dino, make_state, save
from transfer.weights.backbone import read_backbone
from transfer.weights.convert import FORMATS, check_converted, convert, to_detectron2
from transfer.weights.manifest import manifest_path, read_manifest
from transfer.weights.recognition import recognise

ENDINGS = [(to, ending) for to, endings in FORMATS.items() for ending in endings]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tree = MAKERS["moco"](make_state(seed=0), make_state(seed=1))
    return save(tmp_path_factory.mktemp("source"), tree, "moco.pth.tar")


@pytest.fixture(scope="module")
def converted(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("converted") / "backbone.pkl"
    convert(source, output)
    return output


def equal(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def test_manifest_says_where_from_what_was_proved_and_which_input(source: Path, converted: Path) -> None:
    manifest = read_manifest(converted)
    assert manifest.source["sha256"] == digest_file(source)
    assert (manifest.source["family"], manifest.source["branch"], manifest.source["epoch"]) == ("moco", "query", 200)
    assert (manifest.depth, manifest.matched, manifest.expected) == (18, 120, 120)
    assert manifest.output["sha256"] == digest_file(converted)
    assert (manifest.pixel_format, manifest.stride_in_1x1) == ("RGB", False)
    assert list(manifest.parity) == ["res2", "res3", "res4", "res5"]
    assert max(manifest.parity.values()) < 1e-6


def test_detectron2s_pickle_holds_arrays_under_its_names(converted: Path) -> None:
    with converted.open("rb") as stream:
        tree = pickle.load(stream, encoding="latin1")  # as Detectron2's checkpointer reads it
    assert (tree["__author__"], tree["matching_heuristics"], len(tree["model"])) == ("mochi-transfer", True, 120)
    assert (tree["model"]["res5.1.conv2.weight"] == make_state()["layer4.1.conv2.weight"].numpy()).all()


@pytest.mark.slow
@pytest.mark.parametrize(("to", "ending"), ENDINGS)
def test_every_format_leads_there_and_back_with_the_same_bytes(
    to: str, ending: str, converted: Path, tmp_path: Path
) -> None:
    there, back = tmp_path / f"there{ending}", tmp_path / "back.pkl"
    convert(converted, there, to=to)
    convert(there, back)
    assert back.read_bytes() == converted.read_bytes()


@pytest.mark.slow
def test_converting_twice_writes_the_same_bytes_under_any_name(source: Path, tmp_path: Path) -> None:
    for to, ending in (("detectron2", ".pth"), ("moco", ".tar"), ("safetensors", ".safetensors")):
        convert(source, tmp_path / f"a{ending}", to=to)
        convert(source, tmp_path / "sub" / f"other{ending}", to=to)
        assert (tmp_path / f"a{ending}").read_bytes() == (tmp_path / "sub" / f"other{ending}").read_bytes()


@pytest.mark.slow
def test_full_names_of_c4_and_fpn_detectors_are_written_and_read_back(source: Path, tmp_path: Path) -> None:
    q = make_state()
    for layout, name in (("c4", "roi_heads.res5.0.conv1.weight"), ("fpn", "backbone.bottom_up.res5.0.conv1.weight")):
        convert(source, tmp_path / f"{layout}.pth", layout=layout)
        tree = torch.load(tmp_path / f"{layout}.pth", weights_only=True)
        assert torch.equal(tree["model"][name], q["layer4.0.conv1.weight"])
        assert tree["matching_heuristics"] is False
        assert equal(read_backbone(tmp_path / f"{layout}.pth").state, q)


@pytest.mark.slow
def test_torchvision_and_timm_load_what_is_exported(source: Path, tmp_path: Path) -> None:
    q = make_state()
    path = tmp_path / "backbone.safetensors"
    convert(source, path, to="safetensors")
    model = timm.create_model("resnet18", num_classes=0, checkpoint_path=str(path))
    assert equal(model.state_dict(), q)
    resnet = torchvision.models.resnet18()
    resnet.fc = torch.nn.Identity()
    resnet.load_state_dict(load_file(path), strict=True)
    image = torch.randn(1, 3, 64, 64)
    assert torch.allclose(model.eval()(image), resnet.eval()(image), rtol=1e-5)
    convert(source, tmp_path / "timm.pth", to="timm")
    assert equal(
        timm.create_model("resnet18", num_classes=0, checkpoint_path=str(tmp_path / "timm.pth")).state_dict(), q
    )


@pytest.mark.slow
def test_branch_and_family_reach_the_reader(tmp_path: Path) -> None:
    path = save(tmp_path, make_dino(make_state(seed=0), make_state(seed=1)))
    manifest = convert(path, tmp_path / "t.pkl", branch="teacher", family="dino")
    assert (manifest.source["branch"], manifest.source["family"]) == ("teacher", "dino")


def test_wrong_requests_are_refused_with_what_is_allowed(source: Path, tmp_path: Path) -> None:
    for options, name, sentence in (
        ({"to": "onnx"}, "a.pkl", "to=onnx: expected one of detectron2, torchvision, timm, moco, safetensors"),
        ({}, "a.npz", r"a file for to=detectron2 ends in \.pkl or \.pth; got \.npz"),
        ({"layout": "c5"}, "a.pkl", "layout=c5: expected one of any, c4, fpn"),
        ({"layout": "c4", "to": "timm"}, "a.pth", "and to=detectron2"),
    ):
        with pytest.raises(ValueError, match=sentence):
            convert(source, tmp_path / name, **options)
    copy = tmp_path / "same.pth"
    shutil.copy(source, copy)
    with pytest.raises(ValueError, match="is the source itself"):
        convert(copy, copy)
    with pytest.raises(ValueError, match="layout=x"):
        to_detectron2(make_state(), 18, "x")


@pytest.mark.slow
def test_check_proves_a_converted_file_again_and_finds_every_change(source: Path, tmp_path: Path) -> None:
    mine, output = tmp_path / "in.pth", tmp_path / "out.pkl"
    shutil.copy(source, mine)
    convert(mine, output)
    assert check_converted(output)[1]
    data = output.read_bytes()
    output.write_bytes(data[:-40] + bytes([data[-40] ^ 1]) + data[-39:])
    with pytest.raises(ValueError, match="the file was changed or cut after the conversion"):
        check_converted(output)
    output.write_bytes(data)
    mine.write_bytes(mine.read_bytes() + b"\0")
    with pytest.raises(ValueError, match="the source is another file now"):
        check_converted(output)
    mine.unlink()
    assert not check_converted(output)[1]
    manifest_path(output).unlink()
    with pytest.raises(ValueError, match="has no manifest"):
        check_converted(output)


def test_a_refused_conversion_leaves_the_older_file_and_nothing_else(converted: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.pkl"
    shutil.copy(converted, output)
    state = dict(make_state())
    del state["layer2.0.bn1.weight"]
    bad = save(tmp_path, state)
    with pytest.raises(ValueError, match=r"missing: layer2\.0\.bn1\.weight"):
        convert(bad, output)
    assert output.read_bytes() == converted.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.pth", "out.pkl"]


def test_settings_that_json_cannot_hold_are_left_out_and_the_rest_is_kept(tmp_path: Path) -> None:
    strange = {"device": torch.device("cpu"), "weight": torch.ones(2), "tags": {1, 2}, "inf": float("inf"), "n": 9**99}
    bomb: dict[str, Any] = {"x": 1}
    for _ in range(12):
        bomb = {str(number): bomb for number in range(10)}
    encoder = {f"module.encoder_q.{name}": tensor for name, tensor in make_state().items()}
    plain = {"lr": 0.1, "names": ["a"], "3": None}
    for config, kept in (({"lr": 0.1, "names": ("a",), 3: None, **strange}, plain), (bomb, {})):
        path = save(tmp_path, {"state_dict": encoder, "config": config, "epoch": 9**200})
        manifest = convert(path, tmp_path / "out.pkl", overwrite=True)
        assert manifest.config == kept
        assert manifest.source["epoch"] is None
        assert read_manifest(tmp_path / "out.pkl").config == kept


def test_dictionaries_that_repeat_each_other_are_told_once(tmp_path: Path) -> None:
    tree: dict[str, Any] = {"a.weight": torch.ones(2)}
    for _ in range(6):
        tree = {f"k{number}": tree for number in range(40)} | {"b.weight": torch.ones(2)}
    with pytest.raises(ValueError, match="no ResNet in it"):
        read_backbone(save(tmp_path, tree))


DAMAGES = ("drop", "rename", "duplicate", "reshape", "swap", "nan")
STRAYS = ("{}_copy", "extra.{}", "layer9.{}", "x{}", "module.{}", "backbone.{}")


def damage(data: Any, states: dict[str, torch.Tensor], names: list[str]) -> None:
    """Spoil one tensor of a backbone in place, in one of the ways in which checkpoints are spoilt."""
    names = [name for name in names if name in states]
    name = data.draw(st.sampled_from(names), label="key")
    kind = data.draw(st.sampled_from(DAMAGES), label="damage")
    stray = data.draw(st.sampled_from(STRAYS), label="new name").format(name)
    if kind == "drop":
        del states[name]
    elif kind == "rename":
        states[stray] = states.pop(name)
    elif kind == "duplicate":
        states[stray] = states[name]
    elif kind == "reshape":
        states[name] = states[name].reshape(-1, 1)
    elif kind == "swap":
        states[name] = states[name].to(torch.int16)
    else:
        name = data.draw(st.sampled_from([key for key in names if states[key].is_floating_point()]), label="key")
        states[name] = torch.full_like(states[name], torch.nan)


@pytest.mark.slow
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_dropped_renamed_duplicated_or_reshaped_keys_never_get_a_file_out(tmp_path: Path, data: Any) -> None:
    tree = MAKERS[data.draw(st.sampled_from(sorted(MAKERS)), label="family")](make_state(seed=0), make_state(seed=1))
    chosen = recognise(tree, "the whole checkpoint").chosen
    states = tree
    for part in filter(None, chosen.container.split(".")):
        states = states[part]
    inside = re.compile(re.escape(chosen.raw_prefix) + r"(conv1|bn1|layer|stem|res[2-5]|[0-7]\.)")
    names = sorted(name for name, tensor in states.items() if inside.match(name) and torch.is_tensor(tensor))
    assert len(names) in (120, 100)  # without batch counters
    for _ in range(data.draw(st.integers(1, 3), label="how many")):
        damage(data, states, names)
    with pytest.raises(ValueError, match=r"checkpoint\.pth: "):
        convert(save(tmp_path, tree), tmp_path / "out.pkl")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pth"]


@pytest.mark.slow
@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
def test_every_depth_converts_there_and_back_with_the_same_bytes(depth: int, tmp_path: Path) -> None:
    path = save(tmp_path, MAKERS["moco-v3"](make_state(depth), make_state(depth, seed=1)))
    manifest = convert(path, tmp_path / "a.pkl")
    assert manifest.depth == depth
    assert manifest.matched == {18: 120, 34: 216, 50: 318, 101: 624, 152: 930}[depth]
    convert(tmp_path / "a.pkl", tmp_path / "b.pth", to="torchvision")
    convert(tmp_path / "b.pth", tmp_path / "c.pkl")
    assert (tmp_path / "c.pkl").read_bytes() == (tmp_path / "a.pkl").read_bytes()
    make_state.cache_clear()
    buffers.cache_clear()
