"""The README's Python runs as it stands."""

import re
from pathlib import Path

import pytest
import torch
import torchvision

from transfer.convert import convert

README = (Path(__file__).parent.parent / "README.md").read_text()
EXAMPLES = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def run(example: str) -> dict[str, object]:
    names: dict[str, object] = {}
    exec(compile(example, "README.md", "exec"), names)
    return names


def test_readme_shows_the_mixing_and_the_backbones() -> None:
    assert [name for example in EXAMPLES for name in ("mix(", "load_backbone(") if name in example] == [
        "mix(",
        "load_backbone(",
    ]


def test_mixing_example_adds_the_columns_it_says() -> None:
    names = run(EXAMPLES[0])
    assert names["harder"].shape == (8, 768)
    assert names["loss"].isfinite()


def test_backbone_example_reads_what_the_demo_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs" / "digits" / "stages" / "convert-mochi-0123456789ab"
    folder.mkdir(parents=True)
    state = torchvision.models.resnet18().state_dict()
    encoder = {f"module.encoder_q.{name}": tensor for name, tensor in state.items() if not name.startswith("fc.")}
    torch.save({"state_dict": encoder, "arch": "resnet18", "epoch": 1}, tmp_path / "encoder.pt")
    convert(tmp_path / "encoder.pt", folder / "backbone.pkl")
    names = run(EXAMPLES[1])
    assert names["found"].depth == 18
    assert torch.equal(names["backbone"].conv1.weight, state["conv1.weight"])
    assert torch.equal(names["tensors"]["backbone.stem.conv1.weight"], state["conv1.weight"])
