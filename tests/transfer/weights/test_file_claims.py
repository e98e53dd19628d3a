"""Records in a file beyond its tensors are used, refused or requested, never ignored."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional

from pretrain.runtime.command_line import run_command
from pretrain.runtime.machine import PROJECT_ROOT
from pretrain.runtime.settings import read_settings
from pretrain.runtime.stopping import EXIT_USER_ERROR
from tests.making.family_checkpoints import MAKERS, State, caffe2_state, fc, head, make_state, save, under
from tools import convert_checkpoint
from transfer.weights.backbone import fit_input, load_backbone, read_backbone
from transfer.weights.convert import check_converted, convert
from transfer.weights.families import render_table
from transfer.weights.manifest import pixel_format_of, read_manifest
from transfer.weights.pixel_formats import PIXEL_FORMATS, TORCHVISION
from transfer.weights.resnet_names import detectron2_name


def run(*words: object) -> int:
    return run_command(convert_checkpoint.main, convert_checkpoint.__doc__, [str(word) for word in words])


def detectron2(state: State, **more: Any) -> dict[str, Any]:
    return {"model": {detectron2_name(name): tensor for name, tensor in state.items()} | more}


@pytest.mark.parametrize(
    "said",
    [
        *[{"arch": name} for name in ("resnetblur50", "resnetaa50", "resnetaa50d", "resnet50d", "resnext50_32x4d")],
        *[{"arch": name} for name in ("seresnet50", "wide_resnet50_2", "resnet50_gn", "resnetv2_50", "res2net50")],
        {"args": {"model": "resnetblur18"}},
        {"hyper_parameters": {"backbone": {"name": "resnet18_ibn_a"}}},
        {"args": {"model": "resnet18", "model_kwargs": {"aa_layer": "blurpool"}}},
        {"args": {"model_kwargs": {"act_layer": "silu"}}},
        {"args": {"replace_stride_with_dilation": [False, True, True]}},
        {"args": {"output_stride": 8}},
        {"meta": {"cfg": "model = dict(backbone=dict(type='ResNet', strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4)))"}},
        {"meta": {"config": '{"backbone": {"type": "ResNet", "dilations": [1, 1, 1, 2]}}'}},
    ],
)
def test_a_file_that_records_another_network_is_refused(said: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="says that the network is another one: "):
        read_backbone(save(tmp_path, {"state_dict": make_state() | fc(), **said}))


@pytest.mark.parametrize(
    "said",
    [
        *[{"arch": name} for name in ("resnet18", "tv_resnet18", "ResNet-18", "resnet18.a1_in1k", "moco_resnet18")],
        {"args": {"model": "resnet18", "output_stride": 32, "aa_layer": None, "act_layer": "relu"}},
        {"meta": {"cfg": "model = dict(backbone=dict(depth=18, style='pytorch', dilations=(1, 1, 1, 1)))"}},
    ],
)
def test_a_file_that_records_a_plain_resnet_is_read(said: dict[str, Any], tmp_path: Path) -> None:
    backbone = read_backbone(save(tmp_path, {"state_dict": make_state() | fc(), **said}))
    assert backbone.pixel_format == TORCHVISION
    assert "epsilon 1e-5" in backbone.assumed


def test_a_hub_folder_names_its_network_in_config_json(tmp_path: Path) -> None:
    save_file({name: tensor.clone() for name, tensor in (make_state() | fc()).items()}, tmp_path / "model.safetensors")
    assert read_backbone(tmp_path / "model.safetensors").depth == 18
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnetblur18"}))
    with pytest.raises(ValueError, match="architecture is resnetblur18"):
        read_backbone(tmp_path / "model.safetensors")
    said = {"architecture": "resnet18", "pretrained_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}}
    (tmp_path / "config.json").write_text(json.dumps(said))
    assert read_backbone(tmp_path / "model.safetensors").pixel_format == "half"


@pytest.mark.parametrize(
    "config",
    [
        "model = dict(type='MoCo', backbone=dict(type='ResNet', depth=18, style='caffe', norm_cfg=dict(type='BN')))",
        '{"model": {"backbone": {"type": "ResNet", "style": "caffe"}}}',
    ],
)
def test_openmmlabs_style_caffe_is_taken_as_msras_input(config: str, tmp_path: Path) -> None:
    tree = {"meta": {"config": config}, "state_dict": under("backbone.", make_state()) | head("neck.fc.weight")}
    assert read_backbone(save(tmp_path, tree)).pixel_format == "msra"
    with pytest.raises(ValueError, match=r"pixel_format=torchvision, but the file says msra \(style is"):
        read_backbone(save(tmp_path, tree), pixel_format="torchvision")


def test_a_detectron2_file_that_does_not_say_its_input_is_asked_for_it(tmp_path: Path) -> None:
    q = make_state()
    path = save(tmp_path, detectron2(q))
    with pytest.raises(ValueError, match=r"does not say which[^$]*pixel_format=msra: msra \(BGR"):
        read_backbone(path)
    for name in PIXEL_FORMATS:
        assert read_backbone(path, pixel_format=name).pixel_format == name
    with pytest.raises(ValueError, match="expected one of torchvision, msra"):
        read_backbone(path, pixel_format="rgb")


@pytest.mark.parametrize("name", PIXEL_FORMATS)
def test_pixel_mean_and_std_of_a_detector_say_its_input(name: str, tmp_path: Path) -> None:
    wanted = PIXEL_FORMATS[name]
    pixels = {
        "pixel_mean": torch.tensor(wanted.mean).view(3, 1, 1),
        "pixel_std": torch.tensor(wanted.std).view(3, 1, 1),
    }
    assert read_backbone(save(tmp_path, detectron2(make_state(), **pixels))).pixel_format == name
    odd = {**pixels, "pixel_mean": torch.full((3, 1, 1), 7.0)}
    with pytest.raises(ValueError, match="does not say which"):
        read_backbone(save(tmp_path, detectron2(make_state(), **odd)))


@pytest.mark.slow
def test_msras_input_goes_through_conversion_manifest_and_check(tmp_path: Path) -> None:
    source = save(tmp_path, {"blobs": caffe2_state(50)}, "R-50.pth")
    manifest = convert(source, tmp_path / "b.pkl")
    assert (manifest.source["family"], manifest.pixel_format, manifest.stride_in_1x1) == ("caffe2", "BGR", True)
    assert manifest.pixel_std == (1.0, 1.0, 1.0)
    assert pixel_format_of(read_manifest(tmp_path / "b.pkl")) == "msra"
    assert read_backbone(tmp_path / "b.pkl").pixel_format == "msra"
    assert check_converted(tmp_path / "b.pkl")[1]
    convert(tmp_path / "b.pkl", tmp_path / "c.pth")
    convert(tmp_path / "c.pth", tmp_path / "d.pkl")
    assert (tmp_path / "d.pkl").read_bytes() == (tmp_path / "b.pkl").read_bytes()
    for to, name in (("torchvision", "e.pth"), ("safetensors", "e.safetensors"), ("moco", "e.tar")):
        with pytest.raises(ValueError, match="output format cannot record"):
            convert(source, tmp_path / name, to=to)


@pytest.mark.slow
def test_features_of_msra_weights_are_those_of_bgr_pixels_and_strides_in_the_1x1(tmp_path: Path) -> None:
    path = tmp_path / "b.pkl"
    convert(save(tmp_path, {"blobs": caffe2_state(50)}), path)
    backbone = read_backbone(path)
    pixels = torch.randint(0, 256, (1, 3, 64, 64)).double()  # RGB, 0…255
    theirs, ours = PIXEL_FORMATS["msra"], PIXEL_FORMATS[TORCHVISION]

    def normalise(images: torch.Tensor, mean: Any, std: Any) -> torch.Tensor:
        return (images - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)

    bgr = functional.conv2d(
        normalise(pixels.flip(1), theirs.mean, theirs.std), backbone.state["conv1.weight"].double(), stride=2, padding=3
    )
    rgb = functional.conv2d(
        normalise(pixels, ours.mean, ours.std), fit_input(backbone)["conv1.weight"].double(), stride=2, padding=3
    )
    assert torch.allclose(bgr, rgb, rtol=1e-4, atol=1e-3)
    model: Any = load_backbone(path)
    assert model.layer2[0].conv1.stride == (2, 2)
    assert model.layer2[0].conv2.stride == (1, 1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_converted_only_when_asked(dtype: torch.dtype, tmp_path: Path) -> None:
    q = make_state()
    state = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor.int() for name, tensor in q.items()}
    path = save(tmp_path, state)
    with pytest.raises(ValueError, match="add: float32=true"):
        read_backbone(path)
    found = read_backbone(path, float32=True).state
    assert all(torch.equal(tensor, state[name].to(tensor.dtype)) for name, tensor in found.items())
    assert {tensor.dtype for tensor in found.values()} == {torch.float32, torch.int64}


@pytest.mark.slow
@pytest.mark.parametrize(
    "tree",
    [
        lambda q, k: {"model_state": under("online.net.", q) | under("target.net.", k)},
        lambda q, k: {"weights of": {"the net": under("a b.", q)}},
        lambda q, k: {"net": dict(q)},
        lambda q, k: under("strange.", q) | {"other": torch.ones(3)},
        lambda q, k: {"state_dict": under("module.encoder_q.", q) | {"module.strange": torch.ones(3)}},
        lambda q, k: {"state_dict": {name: t.half() if t.is_floating_point() else t for name, t in q.items()}},
    ],
)
def test_the_line_that_a_refusal_advises_converts_the_file(
    tree: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    q, k = make_state(seed=0), make_state(seed=1)
    path = save(tmp_path, tree(q, k))
    assert run(path, tmp_path / "b.pkl") == EXIT_USER_ERROR
    advice = capsys.readouterr().err.partition("add:")[2].split("\n")
    words = shlex.split(next(line for line in advice if line.strip()))
    assert run(path, tmp_path / "b.pkl", *words) == 0, capsys.readouterr().err
    found = read_backbone(tmp_path / "b.pkl").state
    assert torch.equal(found["bn1.bias"], q["bn1.bias"].half().float() if "float32=true" in words else q["bn1.bias"])
    assert run("check", tmp_path / "b.pkl") == 0
    assert "compared with the source" in capsys.readouterr().out


@pytest.mark.slow
def test_inspect_lists_every_resnet_with_words_that_convert_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    q, k = make_state(seed=0), make_state(seed=1)
    path = save(tmp_path, {"model_state": under("online.net.", q) | under("target.net.", k), "ema": {"m": dict(k)}})
    assert run("inspect", path) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("resnet")]
    assert len(lines) == 3
    for line, state in zip(lines, (q, k, k), strict=True):
        words = shlex.split(line.partition("convert it by: ")[2])
        assert run(path, tmp_path / "b.pkl", "overwrite=true", *words) == 0
        assert torch.equal(read_backbone(tmp_path / "b.pkl").state["conv1.weight"], state["conv1.weight"])


def test_a_wrong_prefix_is_refused_with_those_that_are_there(tmp_path: Path) -> None:
    path = save(tmp_path, {"model_state": under("online.net.", make_state())})
    with pytest.raises(ValueError, match=r"ResNets found: prefix=model_state:online\.net\."):
        read_backbone(path, prefix="model_state:online.")
    with pytest.raises(ValueError, match="leave out family"):
        read_backbone(path, prefix="online.net.", family="moco")
    assert read_backbone(path, prefix="online.net.").depth == 18


@pytest.mark.slow
def test_the_output_of_another_checkpoint_is_replaced_only_when_asked(tmp_path: Path) -> None:
    q, k = make_state(seed=0), make_state(seed=1)
    moco, other = save(tmp_path, MAKERS["moco"](q, k), "a.pth"), save(tmp_path, dict(k), "b.pth")
    output = tmp_path / "out.pkl"
    convert(moco, output)
    convert(moco, output)
    before = output.read_bytes()
    for source, options in ((other, {}), (moco, {"branch": "key"})):
        with pytest.raises(ValueError, match=r"was made from .*a\.pth \(moco, query\), not from .*overwrite=true"):
            convert(source, output, **options)
    manifest = tmp_path / "out.pkl.manifest.json"
    manifest.unlink()
    with pytest.raises(ValueError, match="exists and has no manifest"):
        convert(other, output)
    assert output.read_bytes() == before
    convert(moco, output)  # as after a crash between the two renames
    assert manifest.is_file()
    convert(other, output, overwrite=True)
    assert torch.equal(read_backbone(output).state["conv1.weight"], k["conv1.weight"])


def test_keys_that_differ_only_in_their_wrapper_are_refused(tmp_path: Path) -> None:
    q = dict(make_state())
    with pytest.raises(ValueError, match=r"the keys conv1\.weight and module\.conv1\.weight mean the same tensor"):
        read_backbone(save(tmp_path, q | {"module.conv1.weight": q["conv1.weight"]}))
    q["module.conv1.weight"] = q.pop("conv1.weight")
    with pytest.raises(ValueError, match="some keys under the top begin with module"):
        read_backbone(save(tmp_path, q))


def test_the_documentations_table_of_families_is_the_codes() -> None:
    assert render_table() in (PROJECT_ROOT / "docs" / "converting.md").read_text()


def test_each_choice_of_an_unclear_file_can_be_named(tmp_path: Path) -> None:
    q, k = make_state(seed=0), make_state(seed=1)
    path = save(tmp_path, {"state_dict": dict(q), "model": dict(k)})
    with pytest.raises(ValueError, match="Choose one with one of these options") as caught:
        read_backbone(path)
    for place, state in (("state_dict:", q), ("model:", k)):
        assert f"""'prefix="{place}"'""" in str(caught.value)
        assert torch.equal(read_backbone(path, prefix=place).state["conv1.weight"], state["conv1.weight"])
    words = shlex.split("""'prefix="model:"'""")
    assert read_settings(convert_checkpoint.ConvertSettings, None, words).prefix == "model:"
