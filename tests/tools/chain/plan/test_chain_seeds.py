"""A backbone with seeds becomes one pretraining per seed, each measured as a separate backbone."""

from pathlib import Path

import pytest
import yaml

from pretrain.runtime.settings import SettingsError
from tools.chain.plan.config import read_chain
from tools.chain.plan.make_plan import Stage, make_plan

CHAIN = """
backbones:
  mochi: {pretrain: pre.yaml, set: [model.dim=64], seeds: [0, 2]}
  random: {pretrain: pre.yaml, seeds: [0]}
protocols:
  voc: {kind: detector, config: voc.yaml}
  knn: {kind: knn, config: knn.yaml, backbones: [mochi]}
  linear: {kind: linear, config: knn.yaml, backbones: [mochi@2], seeds: [5]}
seeds: [0, 1]
analyse: {config: knn.yaml}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("pre", "voc", "knn"):
        (tmp_path / f"{name}.yaml").write_text("{}\n")
    return tmp_path


def plan(folder: Path, chain: str | dict[str, object] = CHAIN, *overrides: str) -> dict[str, Stage]:
    path = folder / "chain.yaml"
    path.write_text(chain if isinstance(chain, str) else yaml.safe_dump(chain))
    return {stage.name: stage for stage in make_plan(read_chain(path, overrides), [folder])}


def test_each_seed_is_pretrained_converted_and_measured_by_every_protocol(folder: Path) -> None:
    stages = plan(folder)
    assert [name for name in stages if name.startswith(("pretrain", "voc", "knn", "linear"))] == [
        "pretrain-mochi@0", "pretrain-mochi@2", "pretrain-random@0", "voc-mochi@0-seed0", "voc-mochi@2-seed0",
        "voc-random@0-seed0", "voc-mochi@0-seed1", "voc-mochi@2-seed1", "voc-random@0-seed1", "knn-mochi@0",
        "knn-mochi@2", "linear-mochi@2-seed5",
    ]  # fmt: skip
    assert stages["pretrain-mochi@2"].command[4:] == (
        "data.root={stage:data}/digits/imagenet", "model.dim=64", "run.seed=2", "run.out={out}",
    )  # fmt: skip
    assert 'backbone="mochi@2"' in stages["voc-mochi@2-seed1"].command
    assert "mochi@2={stage:pretrain-mochi@2}/encoder.pt" in stages["analyse"].command


def test_seed_written_out_as_a_backbone_is_the_same_work(folder: Path) -> None:
    chain = yaml.safe_load(CHAIN)
    chain["backbones"] = {
        f"{name}@{seed}": {"pretrain": "pre.yaml", "set": [*words, f"run.seed={seed}"]}
        for name, words, seed in (("mochi", ["model.dim=64"], 0), ("mochi", ["model.dim=64"], 2), ("random", [], 0))
    }
    written, listed = plan(folder, chain), plan(folder)
    assert {name: stage.key for name, stage in written.items()} == {name: stage.key for name, stage in listed.items()}


def test_axis_of_a_grid_applies_to_all_seeds(folder: Path) -> None:
    chain = yaml.safe_load(CHAIN) | {"grid": {"mochi:mixing.n,s": [[16, 4], [32, 0]]}}
    stages = plan(folder, chain)
    assert [name for name in stages if name.startswith("pretrain-mochi")] == [
        "pretrain-mochi_n16_s4@0", "pretrain-mochi_n16_s4@2", "pretrain-mochi_n32_s0@0", "pretrain-mochi_n32_s0@2",
    ]  # fmt: skip
    assert {"mixing.n=32", "mixing.s=0", "run.seed=2"} <= set(stages["pretrain-mochi_n32_s0@2"].command)
    assert [name for name in stages if name.startswith("linear")] == [
        "linear-mochi_n16_s4@2-seed5", "linear-mochi_n32_s0@2-seed5",
    ]  # fmt: skip


def test_resources_of_a_method_hold_for_its_seeds_and_those_of_a_seed_go_over_them(folder: Path) -> None:
    words = ["resources.pretrain-mochi.gpus=8", "resources.pretrain-mochi@2.gpus=4", "resources.voc-mochi.cpus=7"]
    stages = plan(folder, CHAIN, *words)
    assert [stages[f"pretrain-{name}"].resources.gpus for name in ("mochi@0", "mochi@2", "random@0")] == [8, 4, 1]
    assert [stages[f"voc-{name}-seed1"].resources.cpus for name in ("mochi@2", "random@0")] == [7, 4]


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["backbones.mochi.seeds=[1,1]"], r"backbones\.mochi\.seeds: a seed is given twice"),
        (["backbones.mochi.seeds=[-1]"], "a seed is 0 or more"),
        (["backbones.mochi.set=[run.seed=3]"], "holds run.seed, which `seeds` sets"),
        (["backbones.public={weights: x.pth, seeds: [0, 1]}"], "an existing checkpoint has one seed"),
        (["protocols.voc.backbones=[moch]"], "did you mean mochi"),
        (["resources.detecter.gpus=1"], "resources.detecter: no kind, protocol or stage .* did you mean detector"),
        (["resources.voc-moch.gpus=1"], "did you mean voc-mochi"),
        (["grid={moch:mixing.n: [1]}"], "did you mean mochi:mixing.n"),
        (["grid={'mochi:mixing.n,s': [[1, 2], [3]]}"], "expected as many values, got"),
    ],
)
def test_wrong_names_and_seeds_are_sentences(folder: Path, overrides: list[str], sentence: str) -> None:
    with pytest.raises((SettingsError, ValueError), match=sentence):
        plan(folder, CHAIN, *overrides)


def test_name_that_does_not_show_is_refused(folder: Path) -> None:
    for name in ("a\x1b[31m", "a\u202eb", "a\0b", "x" * 201):
        with pytest.raises(SettingsError, match=r"invisible characters|longer than 200"):
            plan(folder, {"stages": {name: {"command": ["true"]}}})


@pytest.mark.parametrize("choice", ["mochi@7", "mochi@x", "mochi@", "moch", "random@1"])
def test_protocol_of_a_seed_that_the_chain_does_not_have_is_refused(folder: Path, choice: str) -> None:
    chain = yaml.safe_load(CHAIN)
    chain["protocols"]["knn"]["backbones"] = [choice]
    with pytest.raises(SettingsError, match=f"protocols.knn.backbones names {choice}, no backbone of the chain"):
        plan(folder, chain)
