"""A plan reads every config, key and weights file of every stage, and names all mistakes before anything is started."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torchvision
import yaml

from pretrain.runtime.machine import PROJECT_ROOT
from tools.chain.plan.config import read_chain
from tools.chain.plan.make_plan import draft_stages
from tools.chain.preflight import Survey, open_checked, survey_stages
from tools.chain.same_work import find_same_work

CONFIGS = PROJECT_ROOT / "configs"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a torchvision ResNet-18, a DINO checkpoint of two branches, and a text file."""
    folder = tmp_path_factory.mktemp("weights")
    state = torchvision.models.resnet18().state_dict()
    torch.save(state, folder / "resnet18.pth")
    backbone = {f"module.backbone.{key}": value for key, value in state.items() if not key.startswith("fc.")}
    teacher = {key.removeprefix("module."): value + 1 for key, value in backbone.items()}
    torch.save({"student": backbone, "teacher": teacher, "epoch": 3}, folder / "dino.pth")
    (folder / "notes.pth").write_text("no weights\n")
    return folder


def survey(tmp_path: Path, chain: dict[str, object]) -> Survey:
    path = tmp_path / "chain.yaml"
    path.write_text(yaml.safe_dump(chain))
    config = read_chain(path)
    drafts, problems = draft_stages(config, [PROJECT_ROOT])
    assert not problems
    return survey_stages(config, drafts)


def test_every_mistake_behind_the_chain_file_is_named_at_once(tmp_path: Path, weights: Path) -> None:
    (tmp_path / "data").mkdir()
    chain = {
        "data": {"root": str(tmp_path / "data")},
        "backbones": {
            "mochi": {"pretrain": "configs/pretrain/mochi_r50_digits.yaml", "set": ["mixing.sprime=3"]},
            "text": {"weights": str(weights / "notes.pth")},
            "small": {"weights": str(weights / "resnet18.pth")},
        },
        "protocols": {
            "voc": {"config": "configs/transfer/voc_c4_24k_moco.yaml", "set": ["SOLVER.MAXITER=3"]},
            "knn": {"kind": "knn", "config": "configs/transfer/knn_in1k.yaml", "set": ["neighbours=3"]},
        },
        "seeds": [0, 1],
    }
    lines = survey(tmp_path, chain).say_problems()
    for text in (
        "pretrain-mochi: the command line: unknown setting mixing.sprime; .* Did you mean mixing.s_prime?",
        "convert-text: .*notes.pth",
        "voc-mochi-seed0 (and .* more): the command line: unknown setting SOLVER.MAXITER; did you mean SOLVER.MAX_ITER",
        "knn-mochi (and .* more): the command line: unknown setting neighbours",
    ):
        head, *rest = text.split(".*")
        found = [line for line in lines if line.startswith(head.split(" (and")[0])]
        assert found, (text, lines)
        assert all(any(part.strip(" ") in line for line in found) for part in rest), (text, lines)


def test_depth_of_a_backbone_must_be_that_of_the_detector(tmp_path: Path, weights: Path) -> None:
    chain = {
        "backbones": {"small": {"weights": str(weights / "resnet18.pth")}},
        "protocols": {"voc": {"config": "configs/transfer/voc_c4_24k_moco.yaml"}},
    }
    found = survey(tmp_path, chain)
    assert "MODEL.RESNETS.DEPTH is 50, and small is a ResNet-18" in "\n".join(found.say_problems())
    assert found.notes["convert-small"] == "ResNet-18, torchvision, query branch"


def test_data_root_that_is_not_there_and_empty_folders_are_named(tmp_path: Path) -> None:
    (tmp_path / "imagenet" / "train" / "a").mkdir(parents=True)
    chain = {
        "data": {"root": str(tmp_path)},
        "backbones": {"mochi": {"pretrain": "configs/pretrain/mochi_r50_digits.yaml"}},
        "protocols": {
            "knn": {"kind": "knn", "config": "configs/transfer/knn_in1k.yaml"},
            "voc": {"config": "configs/transfer/voc_c4_24k_moco.yaml"},
        },
    }
    text = "\n".join(survey(tmp_path, chain).say_problems())
    assert f"pretrain-mochi: {tmp_path}/imagenet/train: holds no image" in text
    assert f"knn-mochi: {tmp_path}/imagenet/val: no such folder of images" in text
    assert f"{tmp_path}/VOC2007/ImageSets/Main/trainval.txt is missing" in text
    chain["data"] = {"root": str(tmp_path / "nowhere")}
    assert f"data.root: {tmp_path}/nowhere is no folder" in "\n".join(survey(tmp_path, chain).say_problems())


@pytest.mark.slow
def test_plan_and_submit_refuse_from_the_command_line_and_write_nothing(tmp_path: Path, weights: Path) -> None:
    chain = {
        "runs": str(tmp_path / "runs"),
        "backbones": {
            "mochi": {"pretrain": "configs/pretrain/mochi_r50_digits.yaml", "set": ["mixing.sprime=3"]},
            "gone": {"weights": "gone.pth"},
            "text": {"weights": str(weights / "notes.pth")},
        },
    }
    (tmp_path / "chain.yaml").write_text(yaml.safe_dump(chain))
    for command in ("plan", "submit"):
        words = [sys.executable, "-m", "tools.chain", command, str(tmp_path / "chain.yaml")]
        answer = subprocess.run(words, cwd=PROJECT_ROOT, capture_output=True, text=True, check=False)
        assert answer.returncode == 2
        for text in ("3 mistakes, nothing is started", "gone.pth", "mixing.s_prime", "convert-text: "):
            assert text in answer.stderr, answer.stderr
        assert "Traceback" not in answer.stderr
        assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", ["digits.yaml", "digits_study.yaml"])
def test_chains_of_the_project_pass(name: str) -> None:
    chain, found = open_checked(CONFIGS / "chains" / name, [])
    assert found.problems == {}
    assert found.notes["pretrain-random@0"] == "random initialisation"
    assert chain.stages


def test_same_work_and_plain_points_of_a_sweep_are_named(tmp_path: Path) -> None:
    grid = {"mochi:mixing.n,s,s_prime": [[64, 32, 16], [64, 0, 0], [128, 0, 0]]}
    chain = {"backbones": {"mochi": {"pretrain": "configs/pretrain/mochi_r50_digits.yaml"}}, "grid": grid}
    lines = find_same_work(survey(tmp_path, chain))
    names = "mochi_n64_s0_s_prime0, mochi_n128_s0_s_prime0"
    assert lines == [
        f"the same pretraining under 2 names: {names}; one of them is enough",
        f"without mixing (s = s' = 0), so plain MoCo-v2: {names}",
    ]


def test_schema_of_settings_stays_light() -> None:
    probe = "import sys, tools.chain.plan.options, tools.chain.plan.config; print('torch' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", probe], cwd=PROJECT_ROOT, capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"
