"""A plan says what its comparisons can show, by the runs that it plans and the spread that is known."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from pretrain.runtime.machine import PROJECT_ROOT
from tests.making.chain_folders import MACHINE
from tools.chain.power import say_power
from tools.chain.record.state import stage_folder
from tools.chain.submit import Chain, open_chain
from transfer.results.planning import find_smallest_difference
from transfer.results.run_result import RunResult, write_result

VOC = {"kind": "detector", "config": str(PROJECT_ROOT / "configs/transfer/voc_c4_24k_moco.yaml")}


def open_with(folder: Path, **values: Any) -> Chain:
    for name in ("a.pth", "b.pth"):
        (folder / name).write_bytes(b"weights")
    chain = {
        "backbones": {"a": {"weights": "a.pth"}, "b": {"weights": "b.pth"}},
        "protocols": {"voc": VOC},
        "seeds": [0, 1, 2],
    }
    (folder / "chain.yaml").write_text(yaml.safe_dump(chain | values))
    return open_chain(folder / "chain.yaml", [f"runs={folder}"])


def test_two_checkpoints_are_told_apart_by_the_published_spread(tmp_path: Path) -> None:
    head, line = say_power(open_with(tmp_path))
    assert head == "what the comparisons can show, with 80 % power:"
    smallest = find_smallest_difference(0.2, 3, 3)
    about = "about these checkpoints, not the methods; published spread"
    assert line == f"  b against a (voc AP): {smallest:.2f} points or more ({about})"


def test_without_a_replication_nothing_is_shown_and_without_a_spread_nothing_is_known(tmp_path: Path) -> None:
    knn = {"kind": "knn", "config": str(PROJECT_ROOT / "configs/transfer/knn_in1k.yaml")}
    linear = {"kind": "linear", "config": str(PROJECT_ROOT / "configs/transfer/linear_in1k.yaml")}
    lines = say_power(open_with(tmp_path, protocols={"knn": knn, "linear": linear}))[1:]
    unknown = "unknown until runs have finished; the claim is about these checkpoints, not the methods"
    assert lines == [
        "  b against a (knn top1): too few runs: one of a kind on one side",
        f"  b against a (linear top1): {unknown}",
    ]
    assert say_power(open_with(tmp_path, compare=[["a", "b"]]))[1].startswith("  a against b (voc AP)")
    assert say_power(open_with(tmp_path, protocols={})) == []


def test_pretraining_seeds_make_a_claim_about_methods_and_finished_runs_its_spread(tmp_path: Path) -> None:
    (tmp_path / "pre.yaml").write_text("{}\n")
    methods = {name: {"pretrain": "pre.yaml", "seeds": [0, 1]} for name in ("a", "b")}
    resources = {"pretrain": {"hours": 50}, "detector": {"hours": 5}}
    chain = open_with(tmp_path, backbones=methods, seeds=[0, 1], resources=resources, delta=0.5)
    assert "unknown until runs have finished; the claim is about the methods" in say_power(chain)[1]
    values = iter((50.0, 50.4, 51.0, 51.2, 52.0, 52.4, 53.0, 53.1))
    for stage in chain.stages:
        if stage.name.startswith("voc-"):
            backbone, _, seed = stage.name.removeprefix("voc-").rpartition("-seed")
            result = RunResult(
                backbone=backbone,
                protocol="voc-c4-24k@moco",
                seed=int(seed),
                metrics={"AP": next(values)},
                weights_sha256=f"{backbone:x<64}",
                commit="c0ffee",
                machine=MACHINE,
                seconds=36.0,
            )
            write_result(stage_folder(chain.folder, stage.folder), result)
    line = say_power(chain)[1]
    assert "points or more (about the methods; measured spread)" in line
    assert "pretrainings ×" in line
    assert "at least cost" in line


@pytest.mark.parametrize("name", ["digits.yaml", "digits_study.yaml", "imagenet_mochi_slurm.yaml"])
def test_chains_of_the_project_say_what_they_can_show(name: str) -> None:
    lines = say_power(open_chain(PROJECT_ROOT / "configs" / "chains" / name))
    assert len(lines) > 1
    assert len(lines) < 15
