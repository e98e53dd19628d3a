"""A plan says what runs, why again, and what it costs by what was measured."""

from pathlib import Path

import pytest

from pretrain.runtime.storage import write_json
from tools.chain.__main__ import main
from tools.chain.explain import explain_plan
from tools.chain.record.state import stage_folder
from tools.chain.submit import Chain, freeze, open_chain

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
    assert line.split("after nothing   ")[1] == "again, for what changed: words"
