"""A plan says what runs, why again, and what it costs by what was measured."""

import json
import time
from pathlib import Path

import pytest
import yaml

from pretrain.runtime.machine import PROJECT_ROOT
from pretrain.runtime.storage import write_json
from tools.chain.__main__ import main
from tools.chain.explain import explain_plan
from tools.chain.record.state import stage_as_dict, stage_folder
from tools.chain.submit import Chain, freeze, open_chain

DIGITS = PROJECT_ROOT / "configs" / "chains" / "digits.yaml"
CHAIN = """
report: false
stages:
  train: {command: ["{python}", -m, my.training, big.yaml, "{seed}"], seeds: [0, 1]}
  other: {command: ["{python}", -m, my.training, small.yaml]}
resources: {default: {gpus: 4, hours: 5}}
"""


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    (tmp_path / "chain.yaml").write_text(CHAIN)
    return open_chain(tmp_path / "chain.yaml", [f"runs={tmp_path}"])


def finish(chain: Chain, name: str, **attempt: object) -> None:
    folder = next(stage_folder(chain.folder, stage.folder) for stage in chain.stages if stage.name == name)
    common = {"number": 1, "host": "n", "outcome": "done"}
    write_json(folder / "attempts" / "0001.json", common | attempt)
    write_json(folder / "DONE.json", {"outputs": {}})


def test_hours_come_from_estimates_until_a_stage_of_the_like_was_measured_on_gpus(chain: Chain) -> None:
    assert "0 done, 3 to run; about 60.0 GPU-hours" in explain_plan(chain), "3 stages x 4 GPUs x 5 hours"
    freeze(chain)
    finish(chain, "train-seed0", gpu=["a GPU"], seconds=1800)
    assert "1 done, 2 to run; about 22.0 GPU-hours" in explain_plan(chain), "4 x 0.5 for its seed, 4 x 5 for the other"


def test_what_was_measured_without_gpus_says_nothing_about_gpu_hours(chain: Chain) -> None:
    freeze(chain)
    finish(chain, "train-seed0", gpu=[], seconds=36000)
    assert "1 done, 2 to run; about 40.0 GPU-hours" in explain_plan(chain)


def test_running_stage_counts_by_its_own_rate(chain: Chain) -> None:
    freeze(chain)
    folder = stage_folder(chain.folder, chain.stages[0].folder)
    write_json(folder / "progress.json", {"step": 100, "total": 3700, "rate_per_s": 0.5})
    assert "about 48.0 GPU-hours" in explain_plan(chain), "4 x 2 hours left, and 2 x 20"


def test_dry_run_prints_the_sbatch_texts_without_a_slurm_and_writes_nothing(
    chain: Chain, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")
    words = ["submit", str(chain.path), "dry_run=true", "sbatch=true", "backend=slurm", f"runs={chain.folder.parent}"]
    assert main([*words, "resources.other.partition=long"]) == 0
    text = capsys.readouterr().out
    assert "3 to run; about 60.0 GPU-hours" in text
    assert text.count("#!/bin/bash") == 2, "one array of two seeds, and one job"
    assert "==> train-seed0, train-seed1" in text
    assert "#SBATCH --array=0-1" in text
    assert text.count("#SBATCH --partition=long") == 1
    assert not chain.folder.exists()


def test_changed_setting_is_named_as_the_reason_to_run_again(chain: Chain) -> None:
    freeze(chain)
    finish(chain, "other", gpu=[], seconds=1)
    chain.path.write_text(CHAIN.replace("small.yaml", "tiny.yaml"))
    again = open_chain(chain.path, [f"runs={chain.folder.parent}"])
    line = next(line for line in explain_plan(again).splitlines() if " other" in line)
    assert line.endswith("  again, for what changed: words")


def test_unknown_hours_are_never_counted_as_none(tmp_path: Path) -> None:
    text = CHAIN.replace("{gpus: 4, hours: 5}", "{gpus: 4}")
    path = tmp_path / "chain.yaml"
    path.write_text(text)
    plan = explain_plan(open_chain(path, [f"runs={tmp_path}"]))
    assert "0 done, 3 to run; GPU-hours unknown of 3 stages" in plan
    assert sum(line.rstrip().endswith("unknown") for line in plan.splitlines()) == 3
    assert "0.0" not in plan
    path.write_text(f"{text}\n")
    plan = explain_plan(open_chain(path, [f"runs={tmp_path}", "resources.other.hours=2"]))
    assert "about 8.0 GPU-hours and 2 stages unknown" in plan
    assert "longest path: other: 2.0 h" in plan


def test_light_stages_take_no_gpu_and_no_long_limit_from_the_default() -> None:
    words = ["resources.default={gpus: 8, time_min: 1440}", "resources.pretrain={gpus: 4, time_min: 3000}"]
    stages = {stage.name: stage.resources for stage in open_chain(DIGITS, words).stages}
    asked = {name: (entry.gpus, entry.time_min) for name, entry in stages.items()}
    for light in ("pretrain-random@0", "convert-mochi@0", "knn-mochi@0", "report"):
        assert asked[light] == (0, 30), light
    assert (asked["pretrain-mochi@0"], asked["voc-mochi@0-seed0"]) == ((4, 3000), (8, 1440))
    again = {stage.name: stage.resources for stage in open_chain(DIGITS, [*words, "resources.knn.gpus=1"]).stages}
    assert again["knn-mochi@0"].gpus == 1


def test_plan_of_many_stages_fits_a_screen_and_is_made_in_linear_time(tmp_path: Path) -> None:
    stages = {f"s{index}": {"command": ["true"], "seeds": list(range(100))} for index in range(20)}
    path = tmp_path / "chain.yaml"
    path.write_text(yaml.safe_dump({"runs": str(tmp_path), "stages": stages}))
    chain = open_chain(path)
    for stage in chain.stages:
        folder = stage_folder(chain.folder, stage.folder)
        folder.mkdir(parents=True)
        (folder / "spec.json").write_text(json.dumps(stage_as_dict(stage)))
    began = time.process_time()
    text = explain_plan(open_chain(path))
    assert time.process_time() - began < 2, "2,001 stages; 10,000 took 84 s when each looked at all folders"
    assert len(text.splitlines()) < 10
    assert "2000 × command" in text
