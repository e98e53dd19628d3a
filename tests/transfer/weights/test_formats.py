import argparse
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.making.family_checkpoints import (
    MAKERS,
    fc,
    head,
    make_dino,
    make_lightly_dino,
    make_state,
    make_teacher_student,
    save,
    under,
)
from transfer.weights.backbone import load_backbone, read_backbone
from transfer.weights.resnet_names import COUNTER


@pytest.mark.parametrize("name", MAKERS)
def test_every_family_is_recognised_and_its_query_encoder_is_read(name: str, tmp_path: Path) -> None:
    q, k = make_state(seed=0), make_state(seed=1)
    path = save(tmp_path, MAKERS[name](q, k))
    backbone = read_backbone(path)
    assert backbone.family == name.split(maxsplit=1)[0]
    assert (backbone.depth, backbone.branch) == (18, "query")
    assert list(backbone.state) == list(q)
    found = {key: tensor for key, tensor in backbone.state.items() if not (backbone.filled and key.endswith(COUNTER))}
    assert len(found) == 120 - backbone.filled
    assert all(torch.equal(tensor, q[key]) for key, tensor in found.items())
    assert backbone.family in backbone.reason


MOMENTUM = [
    *("moco", "moco-v3", "pixpro", "pycontrast", "solo-learn", "lightly", "timm", "hard-negative-mixing"),
    *("lightly (plain PyTorch)", "lightly (mocov2 benchmark)", "lightly (byol benchmark)", "solo-learn (all4one)"),
    *("mmselfsup (mmpretrain's MoCo)", "mmselfsup (mmpretrain's BYOL)"),
]


@pytest.mark.parametrize("name", MOMENTUM)
def test_branch_key_reads_the_momentum_encoder(name: str, tmp_path: Path) -> None:
    q, k = make_state(seed=0), make_state(seed=1)
    backbone = read_backbone(save(tmp_path, MAKERS[name](q, k)), branch="key")
    assert all(torch.equal(tensor, k[key]) for key, tensor in backbone.state.items())


@pytest.mark.parametrize(
    ("make", "family"), [(make_lightly_dino, "lightly"), (make_teacher_student, "stable-pretraining")]
)
def test_student_and_teacher_are_read_when_named(make: Any, family: str, tmp_path: Path) -> None:
    q, k = make_state(seed=0), make_state(seed=1)
    path = save(tmp_path, make(q, k))
    with pytest.raises(ValueError, match="choose one: branch=student or branch=teacher"):
        read_backbone(path)
    for branch, state in (("student", q), ("teacher", k)):
        backbone = read_backbone(path, branch=branch)
        assert backbone.family == family
        assert torch.equal(backbone.state["conv1.weight"], state["conv1.weight"])


def test_dino_refuses_to_choose_between_student_and_teacher(tmp_path: Path) -> None:
    q, k = make_state(seed=0), make_state(seed=1)
    path = save(tmp_path, make_dino(q, k))
    with pytest.raises(ValueError, match="choose one: branch=student or branch=teacher"):
        read_backbone(path)
    assert torch.equal(read_backbone(path, branch="teacher").state["conv1.weight"], k["conv1.weight"])
    backbone = read_backbone(path, branch="student")
    assert torch.equal(backbone.state["conv1.weight"], q["conv1.weight"])
    assert (backbone.family, backbone.epoch) == ("dino", 100)


def test_epoch_and_config_of_our_own_encoder_are_kept(tmp_path: Path) -> None:
    backbone = read_backbone(save(tmp_path, MAKERS["moco (our encoder.pt)"](make_state(), {})))
    assert backbone.epoch == 7
    assert backbone.config["mixing"]["n"] == 1024
    assert backbone.dropped == ("module.encoder_q.fc.0.weight",)


def test_timm_safetensors_are_read(tmp_path: Path) -> None:
    q = {name: tensor.clone() for name, tensor in make_state().items()}
    save_file(q | fc(), tmp_path / "model.safetensors")
    assert read_backbone(tmp_path / "model.safetensors").family == "torchvision"


def test_missing_batch_counters_become_zeros_and_are_reported(tmp_path: Path) -> None:
    q = {name: tensor for name, tensor in make_state().items() if not name.endswith("num_batches_tracked")}
    backbone = read_backbone(save(tmp_path, q))
    assert (len(q), backbone.filled, len(backbone.state)) == (100, 20, 120)


def test_file_with_some_batch_counters_only_is_refused(tmp_path: Path) -> None:
    q = dict(make_state())
    del q["bn1.num_batches_tracked"]
    with pytest.raises(ValueError, match=r"missing: bn1\.num_batches_tracked"):
        read_backbone(save(tmp_path, q))


def test_load_backbone_returns_torchvisions_resnet_with_identity(tmp_path: Path) -> None:
    q = make_state()
    model = load_backbone(save(tmp_path, q))
    assert model.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 512)
    assert all(torch.equal(tensor, q[name]) for name, tensor in model.state_dict().items())


def refused(tree: Any, folder: Path, sentence: str, **options: Any) -> None:
    with pytest.raises(ValueError, match=sentence):
        read_backbone(save(folder, tree), **options)


def test_incomplete_or_foreign_networks_are_refused_with_what_is_off(tmp_path: Path) -> None:
    q = make_state()
    renamed = {name.replace("layer3.0.conv1", "layer3.0.conv9"): tensor for name, tensor in q.items()}
    refused(renamed, tmp_path, r"missing: layer3\.0\.conv1\.weight\n  not of a ResNet-18: layer3\.0\.conv9\.weight")
    refused(q | {"conv1.weight": torch.ones(64, 3, 3, 3)}, tmp_path, r"shape \(64, 3, 3, 3\), expected \(64, 3, 7, 7\)")
    refused(
        q | {"conv1.weight": q["conv1.weight"].half()}, tmp_path, r"torch\.float16, expected torch\.float32[^$]*add: "
    )
    refused(q | {"bn1.weight": torch.full((64,), torch.nan)}, tmp_path, r"bn1\.weight: holds NaN")
    refused(q | {"bn1.running_var": torch.full((64,), -1.0)}, tmp_path, r"running_var: negative")
    refused(q | {"something": torch.ones(3)}, tmp_path, "belong to no branch or head of extracted:\n  something")


def test_unclear_files_are_refused_with_the_choices(tmp_path: Path) -> None:
    q, k = make_state(seed=0), make_state(seed=1)
    refused({"state_dict": q, "model": k}, tmp_path, r"several different query encoders: state_dict.*; model")
    refused({"state_dict": under("module.encoder_k.", q)}, tmp_path, "holds the branches key; choose one: branch=key")
    refused(q, tmp_path, "has no branch teacher; it has query", branch="teacher")
    refused(q, tmp_path, "expected one of query, key, teacher, student", branch="both")
    refused(q, tmp_path, "family=mocco: unknown, expected one of moco, hard", family="mocco")
    refused(q, tmp_path, "no ResNet by the scheme of family=moco", family="moco")
    refused(under("strange.", q), tmp_path, r"lies at the top level: strange\., which matches no known family.*\n  ")
    refused({"state_dict": {}}, tmp_path, "holds no tensor at all")
    refused({"state_dict": head("blocks.0.attn.qkv.weight")}, tmp_path, "no ResNet in it; its tensors are blocks.0")
    refused([1, 2], tmp_path, "holds a list, expected a dictionary")


def test_equal_copies_under_two_prefixes_are_no_ambiguity_but_different_ones_are(tmp_path: Path) -> None:
    q, k = make_state(seed=0), make_state(seed=1)
    twice = under("backbone.", q) | under("encoder_q.0.", q)
    assert read_backbone(save(tmp_path, {"state_dict": twice})).family == "openselfsup"
    refused({"state_dict": twice | under("encoder_q.0.", k)}, tmp_path, "several different query encoders")


def test_names_corrupted_by_copied_scripts_are_refused_with_the_reason(tmp_path: Path) -> None:
    q = make_state(50)

    def spoil(name: str) -> str:
        name = name if "layer" in name else f"stem.{name}"
        for number in "1234":
            name = name.replace(f"layer{number}", f"res{int(number) + 1}").replace(f"bn{number}", f"conv{number}.norm")
        return name.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")

    def file(state: dict[str, torch.Tensor]) -> dict[str, Any]:
        model = {spoil(name): tensor for name, tensor in state.items()}
        return {"model": model, "__author__": "MOCO", "matching_heuristics": True}

    refused(file({f"module.{name}": tensor for name, tensor in q.items()}), tmp_path, "would match 0 of them")
    refused(file({f"backbone.{name}": tensor for name, tensor in q.items()}), tmp_path, "would load 252 of 318")
    refused(file(q | head("fc.0.weight")), tmp_path, "projection head is written as part of the stem")
    refused({"model": {}, "__author__": "MOCO", "matching_heuristics": True}, tmp_path, "holds no tensor at all")
    assert read_backbone(save(tmp_path, file(q))).family == "detectron2"


def test_arbitrary_pickle_is_refused_until_it_is_trusted_and_even_then_not_run(tmp_path: Path) -> None:
    q = make_state()
    path = save(tmp_path, {"state_dict": q, "args": argparse.Namespace(lr=0.1, nested=argparse.Namespace(a=1))})
    with pytest.raises(ValueError, match=r"names argparse\.Namespace, and unpickling these can run any code.*Re-save"):
        read_backbone(path)
    assert torch.equal(read_backbone(path, trust_pickle=True).state["conv1.weight"], q["conv1.weight"])
