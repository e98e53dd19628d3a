"""`chain init` writes a commented chain file for given checkpoints, data and cluster, and it can be planned."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torchvision
import yaml

from pretrain.runtime.machine import PROJECT_ROOT
from tools.chain.plan.beginning import begin
from tools.chain.plan.config import read_chain

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(PROJECT_ROOT)}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    state = torchvision.models.resnet50().state_dict()
    torch.save(state, "simsiam.pth")
    student = {f"module.backbone.{key}": value for key, value in state.items() if not key.startswith("fc.")}
    teacher = {key.removeprefix("module."): value + 1 for key, value in student.items()}
    torch.save({"student": student, "teacher": teacher, "epoch": 3}, "dino.pth")
    return tmp_path


def test_written_file_names_what_is_there_and_asks_the_cluster_for_it(folder: Path) -> None:
    (folder / "data" / "VOC2007").mkdir(parents=True)
    assert begin(["weights=[simsiam.pth,mine:dino.pth]", "data=data", "slurm=gpu:project:4", "seeds=2"]) == 0
    chain = read_chain(folder / "chain.yaml")
    assert list(chain.backbones) == ["simsiam", "mine", "random"]
    assert chain.backbones["mine"].set == ("branch=teacher",), "DINO's own evaluations take the teacher"
    assert chain.backbones["random"].seeds == (0, 1)
    assert list(chain.protocols) == ["voc"], "coco and imagenet are not there: commented out"
    assert (chain.backend, chain.data.root, chain.seeds) == ("slurm", str(folder / "data"), (0, 1))
    assert chain.resources["default"]["account"] == "project"
    assert chain.resources["detector"]["gpus"] == 4
    text = (folder / "chain.yaml").read_text()
    assert text.startswith("# yaml-language-server: $schema=chain.schema.json\n")
    assert "# coco: {kind: detector" in text
    schema = json.loads((folder / "chain.schema.json").read_text())
    assert set(yaml.safe_load(text)) <= set(schema["properties"])


def test_present_file_is_kept_and_wrong_words_are_sentences(folder: Path) -> None:
    (folder / "there.yaml").write_text("mine")
    with pytest.raises(ValueError, match=r"there\.yaml: already exists"):
        begin(["out=there.yaml"])
    with pytest.raises(ValueError, match=r"slurm=gpu: expected PARTITION:ACCOUNT:GPUS"):
        begin(["slurm=gpu"])
    with pytest.raises(ValueError, match=r"weights: none\.pth does not exist"):
        begin(["weights=none.pth"])
    with pytest.raises(ValueError, match="would be called simsiam"):
        begin(["weights=[simsiam.pth,./simsiam.pth]"])
    assert (folder / "there.yaml").read_text() == "mine"


@pytest.mark.slow
def test_written_file_plans_as_it_stands(folder: Path) -> None:
    for words in (["init", "weights=simsiam.pth", "slurm=gpu:project:4"], ["plan", "chain.yaml"]):
        command = [sys.executable, "-P", "-m", "tools.mochi", "chain", *words]
        answer = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=False)
        assert answer.returncode == 0, answer.stderr
    assert "convert-simsiam" in answer.stdout
    assert "ResNet-50" in answer.stdout


def test_remote_weights_are_named_by_their_last_part_and_not_opened(folder: Path) -> None:
    remote = ["zoo:moco-v2-200ep", "hf://timm/resnet50.a1_in1k", "https://host.example/a/b.pth#sha256=0123456789abcdef"]
    assert begin([f"weights={json.dumps([*remote, 'mine:zoo:dino-r50'])}"]) == 0
    chain = read_chain(folder / "chain.yaml")
    weights = {name: backbone.weights for name, backbone in chain.backbones.items() if backbone.weights}
    names = ("moco-v2-200ep", "resnet50", "b", "mine")
    assert weights == dict(zip(names, [*remote, "zoo:dino-r50"], strict=True))
